"""`tomtat label`: drafts of summaries for chats that have none, and their review."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tomtat.cli.label_review import review
from tomtat.cli.options import OnBadRow, given
from tomtat.cli.terminal import TerminalProgress, console, harmless, print_next, print_table

if TYPE_CHECKING:
    from tomtat.config import LabelSettings
    from tomtat.labelling.drafts import Chat
    from tomtat.labelling.journal import Journal
    from tomtat.labelling.pacing import Prices, Spent
    from tomtat.labelling.upstream import Upstream
    from tomtat.labelling.work import Outcome, Plan

DRAFT = "draft"
FAILED_TOLD = 5


class DraftByDefault(TyperGroup):
    """`tomtat label CHATS` is `tomtat label draft CHATS`: what is no subcommand is data."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [DRAFT, *args]
        return super().parse_args(ctx, args)


label_app = typer.Typer(
    cls=DraftByDefault,
    no_args_is_help=True,
    help="Summaries for chats that have none: drafted by a model behind a server, checked, reviewed. "
    "tomtat label CHATS --upstream URL is short for tomtat label draft CHATS --upstream URL.",
)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The --out of tomtat label, or the .drafts.jsonl beside it.")
]


@label_app.command(DRAFT)
def draft_command(
    data: Annotated[str, typer.Argument(metavar="CHATS", help="A file, chats@train, or a hub data set.")],
    upstream: Annotated[
        str, typer.Option(help="An OpenAI-shaped server, such as http://localhost:8000/v1.", metavar="URL")
    ],
    model: Annotated[str | None, typer.Option(help="Its model. Default: the only one it has.")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key. Default: OPENAI_API_KEY, where set.", metavar="NAME"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where accepted rows go. Default: CHATS with the ending .labelled.jsonl."),
    ] = None,
    price_in: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens sent.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens written.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Stop before this is spent on FILE, in the prices' currency.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Stop before so many tokens are spent on FILE.")] = None,
    per_minute: Annotated[float | None, typer.Option(help="Requests per minute, at most.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", "-j", help="Requests at once (4).")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until an answer must be there (120).")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer, thinking included (512).")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default: the server's own.")] = None,
    prompt: Annotated[
        Path | None, typer.Option(help="Text file with another prompt; {text} is where the chat goes.", metavar="FILE")
    ] = None,
    source_field: Annotated[str | None, typer.Option(help="Field with the chat, if not a usual name.")] = None,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Draft rows that have a summary too.")] = False,
    on_bad_row: OnBadRow = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before spending.")] = False,
) -> None:
    """Draft summaries through a server. Stopped or killed, the same command goes on; no answer is asked for twice.

    Each draft is checked; one that is refused is asked for once more with the reason, then kept for review.

    tomtat label chats.jsonl --upstream http://localhost:8000/v1

    tomtat label chats.jsonl --upstream https://host/v1 --model NAME --price-in 0.25 --price-out 2 --max-cost 5
    """
    from tomtat.labelling.drafts import require_ours
    from tomtat.labelling.journal import journal_path, open_journal
    from tomtat.labelling.upstream import Upstream
    from tomtat.labelling.work import Labelling, Limits
    from tomtat.memory.tokens import counter_for

    asked = {
        "per_minute": per_minute, "concurrency": concurrency, "timeout": timeout, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "template": _read_prompt(prompt),
    }  # fmt: skip
    settings = _settings(given(asked))
    limits = Limits(_prices(price_in, price_out, max_cost), max_cost, max_tokens)
    out = out or _beside(data)
    require_ours(out)
    server = partial(Upstream, upstream, settings, key_env)
    server()  # what is wrong with its address or key is told before anything else
    progress = TerminalProgress()
    chats = _chats(data, source_field, on_bad_row, all_rows, progress)
    model = model or _only_model(server())
    with open_journal(journal_path(out), settings.concurrency) as journal:
        labelling = Labelling(journal, settings, model, counter_for(model), limits)
        plan = labelling.plan(chats, data)
        _tell_plan(plan, model, limits.prices)
        if plan.missing and not yes and _is_terminal() and not typer.confirm("Ask for them?"):
            _say("Nothing was asked.")
            return
        outcome = labelling.run(plan, server(), data, progress)
        _finish(outcome, plan, limits.prices, out, journal)


def _settings(values: dict[str, Any]) -> "LabelSettings":
    from pydantic import ValidationError

    from tomtat.config import LabelSettings, _explain
    from tomtat.errors import ConfigError

    try:
        return LabelSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(dict(detail), LabelSettings) for detail in error.errors())) from None


def _read_prompt(path: Path | None) -> str | None:
    from tomtat.errors import ConfigError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"--prompt {path} can't be read: {why}.") from None


def _prices(price_in: float | None, price_out: float | None, max_cost: float | None) -> "Prices | None":
    from tomtat.errors import ConfigError
    from tomtat.labelling.pacing import Prices

    if (price_in is None) != (price_out is None):
        raise ConfigError("--price-in and --price-out belong together: what a million tokens cost, sent and written.")
    if price_in is None or price_out is None:
        if max_cost is not None:
            raise ConfigError("--max-cost needs prices to count with: --price-in and --price-out, per million tokens.")
        return None
    return Prices(price_in, price_out)


def _beside(data: str) -> Path:
    """The data's name with another ending; of data that is no file, in the current folder."""
    from tomtat.data.slices import parse_spec

    source = parse_spec(data).source
    path = Path(source)
    if path.is_file():
        return path.with_name(path.name.split(".")[0] + ".labelled.jsonl")
    return Path("".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in source) + ".labelled.jsonl")


def _chats(
    data: str, source_field: str | None, on_bad_row: str | None, all_rows: bool, progress: TerminalProgress
) -> list["Chat"]:
    from tomtat.data import DataOptions, load
    from tomtat.errors import DataError
    from tomtat.labelling.drafts import Chat

    loaded = load(data, DataOptions(source_field, needs_summary=False, on_bad_row=on_bad_row or "stop"))
    for reject in loaded.rejects[:FAILED_TOLD]:
        progress.note(f"left out: {reject.where}: {reject.reason}")
    if len(loaded.rejects) > FAILED_TOLD:
        progress.note(f"left out: {len(loaded.rejects) - FAILED_TOLD:,} more")
    wanted = [(row, example) for row, example in enumerate(loaded.examples) if all_rows or not example.references]
    have = len(loaded.examples) - len(wanted)
    if not wanted:
        raise DataError(f"All {have:,} rows of {data} have a summary. --all-rows drafts theirs too.")
    if have:
        progress.note(f"{have:,} rows have a summary and are left out; --all-rows drafts theirs too.")
    return [Chat(example.id, row, example.source) for row, example in wanted]


def _only_model(upstream: "Upstream") -> str:
    import asyncio

    async def find() -> str:
        async with upstream:
            return await upstream.only_model()

    return asyncio.run(find())


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


# -- what is told


def _say(text: str) -> None:
    console.print(harmless(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _tell_plan(plan: "Plan", model: str, prices: "Prices | None") -> None:
    done = len(plan.all) - len(plan.missing)
    chats = sum(len(question.chats) for question in plan.all)
    same = chats - len(plan.all)
    _say(
        f"{chats:,} chats"
        + (f", {same:,} of them word for word the same as others" if same else "")
        + (f"; {done:,} have their draft" if done else "")
        + f"; {len(plan.missing):,} to ask {model} for."
    )
    if plan.missing:
        _say(f"About {_tokens(plan.usual)}{_cost(plan.usual, prices)}, by estimate.")
        _say(f"At most {_tokens(plan.most)}{_cost(plan.most, prices)}, if each is asked for twice.")
    if plan.spent.tokens:
        _say(f"So far this file took {_tokens(plan.spent)}{_cost(plan.spent, prices)}.")


def _tokens(spent: "Spent") -> str:
    return f"{spent.prompt_tokens:,} tokens sent and {spent.new_tokens:,} written"


def _cost(spent: "Spent", prices: "Prices | None") -> str:
    return f": {prices.of(spent):,.4f}" if prices else ""


def _finish(outcome: "Outcome", plan: "Plan", prices: "Prices | None", out: Path, journal: "Journal") -> None:
    """The accepted rows are written, all is told, and what went wrong is raised last."""
    from tomtat.errors import Interrupted, ModelError
    from tomtat.labelling.drafts import publish_into

    journal.give_room()
    try:
        rows = publish_into(out, journal)
    except OSError as error:
        if outcome.error is None:
            raise
        rows = None
        _say(f"{out} could not be written ({error.strerror}); the drafts are kept, and the next command writes it.")
    if plan.missing:
        _tell_outcome(outcome, prices)
    if rows is not None:
        _say(f"{rows:,} rows that train are in {out}.")
    if outcome.stopped and outcome.error is None and not outcome.is_interrupted:
        _say(f"{outcome.stopped}: {outcome.left:,} chats are left. Raise the limit and repeat the command to go on.")
    _tell_waiting(journal, out)
    if outcome.error is not None:
        raise outcome.error
    if outcome.is_interrupted:
        raise Interrupted(f"Stopped with {outcome.left:,} chats left. Repeat the command to go on.")
    if outcome.failed:
        told = "; ".join(f"{id_}: {why}" for id_, why in outcome.failed[:FAILED_TOLD])
        raise ModelError(
            f"{len(outcome.failed):,} chats have no draft ({told}). Repeat the command to ask for them again."
        )


def _tell_outcome(outcome: "Outcome", prices: "Prices | None") -> None:
    spent = outcome.spent
    print_table(
        ["drafts", "passed", "to review", "failed", "tokens sent", "written", *(["cost"] if prices else [])],
        [
            [
                "this time", f"{outcome.passed:,}", f"{outcome.to_review:,}", f"{len(outcome.failed):,}",
                f"{spent.prompt_tokens:,}", f"{spent.new_tokens:,}", *([f"{prices.of(spent):,.4f}"] if prices else []),
            ]
        ],
    )  # fmt: skip
    if outcome.estimated:
        _say(f"{outcome.estimated:,} answers did not say what they cost, or nothing to be believed: estimated.")
    if outcome.lost:
        _say(f"{outcome.lost:,} requests brought no answer and may be charged all the same; what they sent is counted.")


def _tell_waiting(journal: "Journal", out: Path) -> None:
    from tomtat.labelling.drafts import chosen

    waiting = sum(draft.is_waiting for draft in chosen(journal.events))
    if waiting:
        _say(f"{waiting:,} drafts wait for somebody to look at them, and don't train until then.")
        print_next(f"label review {out}")


# -- review


@label_app.command("review")
def review_command(
    file: File,
    everything: Annotated[bool, typer.Option("--all", help="Drafts that passed or were decided on too.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write them to a .csv, .tsv or .jsonl instead, to edit and bring back.", metavar="SHEET"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a sheet that is there.")] = False,
) -> None:
    """Look at drafts that were refused: accept, edit, reject. Each decision is kept at once; a later command goes on.

    tomtat label review chats.labelled.jsonl

    tomtat label review chats.labelled.jsonl --sheet review.csv, then tomtat label apply chats.labelled.jsonl review.csv
    """
    from tomtat.errors import DataError
    from tomtat.labelling.drafts import load, publish_into, require_ours
    from tomtat.labelling.journal import journal_path, open_journal, output_path
    from tomtat.labelling.sheets import write_sheet

    drafts = [draft for draft in load(file) if everything or draft.is_waiting]
    out = output_path(file)
    if sheet is not None:
        if sheet.exists() and not overwrite:
            raise DataError(f"{sheet} is there already, perhaps with decisions. Name another, or say --overwrite.")
        write_sheet(sheet, drafts)
        _say(f"{len(drafts):,} drafts are in {sheet}. Write accept or reject beside them, or change their summaries.")
        print_next(f"label apply {out} {sheet}")
        return
    require_ours(out)
    if not drafts:
        _say("No draft waits for a decision. --all shows all of them.")
        return
    with open_journal(journal_path(file)) as journal:
        try:
            review(drafts, journal)
        finally:
            _tell_published(publish_into(out, journal), out)


@label_app.command("apply")
def apply_command(
    file: File,
    sheet: Annotated[Path, typer.Argument(metavar="SHEET", help="What label review --sheet wrote, edited.")],
) -> None:
    """Take decisions and corrections from a sheet: all of them, or none where a row can't be read.

    tomtat label apply chats.labelled.jsonl review.csv
    """
    from tomtat.labelling.drafts import load, publish_into, require_ours
    from tomtat.labelling.journal import journal_path, open_journal, output_path
    from tomtat.labelling.sheets import apply_sheet

    load(file)
    out = output_path(file)
    require_ours(out)
    with open_journal(journal_path(file)) as journal:
        applied = apply_sheet(sheet, journal)
        _say(
            f"{applied.accepted:,} accepted, {applied.corrected:,} corrected, {applied.rejected:,} rejected, "
            f"{applied.unchanged:,} left as they were."
        )
        _tell_published(publish_into(out, journal), out)
        _tell_waiting(journal, out)


def _tell_published(rows: int, out: Path) -> None:
    _say(f"{rows:,} rows that train are in {out}.")
