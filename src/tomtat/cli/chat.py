"""`tomtat chat`: a chat in the terminal that shows its memory at work."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.options import Device, Engine
from tomtat.cli.store import Meaning, Place, TenantName, open_place
from tomtat.cli.terminal import TerminalProgress, console, harmless, print_table

if TYPE_CHECKING:
    from tomtat.answering import Answerer
    from tomtat.memory import ChatMemory, Context, TokenCounter
    from tomtat.store import Turn
    from tomtat.summarizer import Summarizer

ABOUT_TURNS = ("/recall", "/history", "/why", "/folds", "/context", "/erase")

HELP = """\
/recall [QUESTION]  older turns that were brought back for the last message, or that a question would bring
/history [N]        every turn, or the newest N
/why [N]            what the summaries say, numbered; with a number, the turns it comes from
/folds              how each span was summarized: what was tried, and why it was refused
/context            the last context, as it was sent
/tokens             tokens sent and saved so far
/erase              remove this conversation for good
/quit               leave; the conversation stays (so does Ctrl-D)"""


def chat_command(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN|MODEL]", help="Who summarizes; without one, sentences are picked.")
    ] = None,
    conversation: Annotated[
        str, typer.Option("--conversation", "-c", help="Its name: it goes on where it was.")
    ] = "chat",
    budget: Annotated[int, typer.Option("--budget", "-b", min=1, help="Tokens that a request may have.")] = 2500,
    upstream: Annotated[
        str | None,
        typer.Option(help="An OpenAI-shaped server that answers, such as http://localhost:8000/v1.", metavar="URL"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The upstream's model.")] = None,
    answers: Annotated[
        str, typer.Option(help="Without an upstream: the model on this machine that answers.", metavar="MODEL")
    ] = "smollm2-135m-instruct",
    system: Annotated[str | None, typer.Option(help="System message of a new conversation.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder, hub id or encoding to count tokens with; else the answering model's, or an estimate."
        ),
    ] = None,
    store: Place = None,
    tenant: TenantName = "default",
    meaning: Meaning = False,
    engine: Engine = "torch",
    device: Device = "auto",
) -> None:
    """Chat in the terminal, with a memory: see what is sent, saved, folded and recalled.

    tomtat chat runs/chats

    tomtat chat runs/chats --upstream http://localhost:8000/v1 --model qwen3 --budget 4000

    tomtat store import chats.jsonl, and then tomtat chat runs/chats -c chat-007
    """
    from tomtat.errors import ConfigError
    from tomtat.memory import ChatMemory

    if (upstream is None) != (model is None):
        raise ConfigError("--upstream and --model belong together: the server, and which of its models answers.")
    if not conversation.strip():
        raise ConfigError("--conversation needs a name.")
    summarizer = _summarizer(run, device, engine) if run else None
    answerer = _answerer(upstream, model, answers, device)
    with (
        open_place(store, tenant, meaning) as opened,
        ChatMemory(summarizer, opened, counter=_counter(answerer, tokenizer, model)) as memory,
    ):
        Chat(memory, answerer, conversation, budget, system).run()


def _summarizer(run: str, device: Device, engine: Engine) -> "Summarizer":
    from tomtat.errors import ModelError
    from tomtat.summarizer import Summarizer

    try:
        return Summarizer.load(run, device, engine=engine, progress=TerminalProgress())
    except ModelError:
        if Path(run).expanduser().exists():
            raise
        raise ModelError(
            f"There is no run folder {run!r}, and no model of that name within reach. "
            "Make one with tomtat train, or leave it out: sentences of the chat are picked then."
        ) from None


def _answerer(upstream: str | None, model: str | None, local: str, device: str) -> "Answerer":
    from tomtat.answering import LocalModel, Upstream

    return Upstream(upstream, model) if upstream and model else LocalModel(local, device)


def _counter(answerer: "Answerer", tokenizer: str | None, model: str | None) -> "TokenCounter":
    from tomtat.answering import LocalModel
    from tomtat.errors import ConfigError
    from tomtat.memory import HuggingFaceTokens, counter_for
    from tomtat.memory.tokens import is_tiktokens
    from tomtat.models import embedded

    if tokenizer is not None:
        if tokenizer == embedded.NAME:
            return HuggingFaceTokens.load(str(embedded.embedded_model()))
        found = counter_for(tokenizer)
        if found.is_estimate and is_tiktokens(tokenizer):
            raise ConfigError(
                f"--tokenizer {tokenizer}: tiktoken fetches this encoding's file, and can't from here. "
                "Leave it out, and tokens are estimated; or name a folder with a tokenizer."
            )
        return HuggingFaceTokens.load(tokenizer) if found.is_estimate else found
    if isinstance(answerer, LocalModel):
        return HuggingFaceTokens(answerer.tokenizer, answerer.name)
    return counter_for(model)


class Chat:
    """Lines in, answers and figures out."""

    def __init__(
        self, memory: "ChatMemory", answerer: "Answerer", conversation: str, budget: int, system: str | None
    ) -> None:
        self.memory, self.answerer, self.name, self.budget = memory, answerer, conversation, budget
        self.system = system
        self.last: Context | None = None
        self.sent = self.whole = 0
        self.commands: dict[str, Callable[[str], None]] = {
            "/recall": self.show_recalled,
            "/history": self.show_history,
            "/why": self.show_why,
            "/folds": self.show_folds,
            "/context": self.show_context,
            "/tokens": self.show_tokens,
            "/erase": self.erase,
            "/help": lambda _: _say(HELP),
        }

    def run(self) -> None:
        from tomtat.errors import TomtatError

        self.greet()
        for line in _lines():
            command, _, rest = line.partition(" ")
            if command in ("/quit", "/exit"):
                break
            try:
                if command in ABOUT_TURNS and not self._turns():
                    _say("Nothing was said yet.")
                elif command in self.commands:
                    self.commands[command](rest.strip())
                elif line.startswith("/"):
                    _say(f"{command} is no command. /help lists them.", "yellow")
                else:
                    self.answer(line)
            except TomtatError as error:
                _say(str(error), "red")
            except KeyboardInterrupt:
                _say("\nStopped. Ctrl-D or /quit leaves.", "yellow")
        self.part()

    def greet(self) -> None:
        turns = self._turns()
        folded = self.memory.report(self.name).turns if turns else 0
        if turns:
            self.memory.fold_soon(self.name)
        known = f"{_count_of(turns)}, {folded} of them folded" if turns else "new"
        _say(
            f"Conversation {self.name} ({known}). {self.answerer.name} answers, within {self.budget:,} tokens",
            "dim",
            end="",
        )
        _say(f" ({self.memory.counter.name}). /help lists commands.", "dim")

    def part(self) -> None:
        if not self._turns():
            return
        waiting = self.memory.report(self.name).waiting
        _say(f"Kept: {_count_of(self._turns())}" + (f", {waiting} not folded yet." if waiting else "."), "dim")

    # -- a turn

    def answer(self, text: str) -> None:
        from tomtat.errors import BudgetError
        from tomtat.memory import EstimatedTokens
        from tomtat.talking import say

        say(self.memory, self.name, text, self.system)
        try:
            self.last = self.memory.compose(self.name, self.budget)
        except BudgetError as error:
            _say(f"{error} Start again with --budget {error.smallest} or more.", "red")
            return
        self._hear(self.last)
        # Before anything is learned: what was saved is only told by one and the same measure.
        self._count(self.last)
        if self.answerer.prompt_tokens and isinstance(self.memory.counter, EstimatedTokens):
            self.memory.counter.learn(self.last.messages, self.answerer.prompt_tokens)

    def _hear(self, context: "Context") -> None:
        """Show an answer as it comes, and keep it; what was cut is kept as far as it came, and says that it was cut."""
        from tomtat.talking import BROKEN_OFF, STOPPED, keep

        pieces: list[str] = []
        try:
            for piece in self.answerer.stream(context.messages):
                pieces.append(piece)
                _say(piece, end="")
            _say("")
        except KeyboardInterrupt:
            self._keep_cut(pieces, STOPPED)
            return
        except BaseException:
            self._keep_cut(pieces, BROKEN_OFF)
            raise
        if not keep(self.memory, self.name, pieces):
            _say("The answer was empty.", "yellow")

    def _keep_cut(self, pieces: list[str], mark: str) -> None:
        from tomtat.talking import STOPPED, keep

        if "".join(pieces).strip() or mark == STOPPED:
            _say(f" {mark}" if pieces else mark, "yellow")
        keep(self.memory, self.name, pieces, mark)

    def _count(self, context: "Context") -> None:
        from tomtat.talking import cost_of, ranges

        whole = cost_of(self.memory, self.name, context).whole
        self.sent, self.whole = self.sent + context.tokens, self.whole + whole
        parts = ", ".join(f"{name} {tokens:,}" for name, tokens in context.shares.items() if tokens)
        saved = 1 - context.tokens / whole
        told = f"{context.tokens:,} tokens sent"
        if saved >= 0.005:
            told += f" instead of {whole:,} ({saved:.0%} saved)"
        report = self.memory.report(self.name)
        folded = f"; {report.turns} turns in {report.spans} summaries" if report.spans else ""
        recalled = f"; recalled turns {ranges(context.recalled)}" if context.recalled else ""
        _say(f"{told}: {parts}{folded}{recalled}", "dim")

    # -- commands

    def show_recalled(self, question: str) -> None:
        if question:
            places = list(self.memory.compose(self.name, self.budget, question).recalled)
        else:
            places = list(self.last.recalled) if self.last else []
        if not question and not self.last:
            _say("Nothing was recalled yet. /recall QUESTION shows what a question would bring back.")
            return
        if not places:
            _say("Nothing was recalled: what was asked about stands in the context, or was never said.")
            return
        turns = self.memory.store.history(self.name, first=min(places), last=max(places))
        self._show([turn for turn in turns if turn.seq in places])

    def show_history(self, count: str) -> None:
        if count and not count.isdecimal():
            _say("/history takes a number, as in /history 20.", "yellow")
            return
        self._show(self.memory.history(self.name, newest=int(count) if count else None))

    def show_why(self, number: str) -> None:
        from tomtat.talking import sayings

        told = list(sayings(self.last)) if self.last else []
        if not told:
            whole = self.last is None or self.last.is_whole
            why = "nothing had to be folded." if whole else "the budget has no room for one."
            _say(f"No summary was sent with the last message: {why}")
        elif not number:
            for place, one in enumerate(told, start=1):
                _say(f"{place:3}  {one.text}  (turns {one.first} to {one.last})")
        elif not number.isdecimal() or not 1 <= int(number) <= len(told):
            _say(f"/why takes a number from 1 to {len(told)}; without one it lists what the summaries say.", "yellow")
        else:
            self._show(self.memory.sources(self.name, told[int(number) - 1].text))

    def show_folds(self, _: str) -> None:
        rows, was_model = [], False
        for fold in self.memory.folds(self.name):
            refused = "; ".join(f"{one.how}: {', '.join(one.reasons)}" for one in fold.verdicts if not one.passed)
            was_model |= any(one.reasons != ("empty",) for one in fold.verdicts if one.how != "extract")
            rows.append([f"{fold.span.first}-{fold.span.last}", str(fold.level), fold.by, fold.text[:70], refused[:70]])
        if not rows:
            _say(f"Nothing is folded yet: {_count_of(self._turns())} so far.")
            return
        print_table(["turns", "level", "by", "summary", "refused before"], [list(map(harmless, row)) for row in rows])
        report = self.memory.report(self.name)
        if was_model:
            _say(f"{report.by_model} of {report.spans} spans were summarized by the model itself.", "dim")
        else:
            _say("No model was there to summarize (tomtat chat RUN): sentences were picked from each span.", "dim")

    def show_context(self, _: str) -> None:
        for message in self.last.messages if self.last else ():
            _say(f"{message['role']}:", "bold")
            _say(str(message.get("content") or message.get("tool_calls")) + "\n")

    def show_tokens(self, _: str) -> None:
        if not self.whole:
            _say("Nothing was sent yet.")
            return
        saved = 1 - self.sent / self.whole
        _say(
            f"{self.sent:,} tokens sent since you came; the whole history each time would have been {self.whole:,} "
            f"({saved:.0%} saved)."
        )

    def erase(self, _: str) -> None:
        try:
            typer.confirm(f"Remove conversation {self.name}, {_count_of(self._turns())}, for good?", abort=True)
        except typer.Abort:  # no, Ctrl-C, or nobody there
            _say("Nothing was removed.")
            return
        receipt = self.memory.erase(self.name)
        self.last = None
        _say(f"Removed {_count_of(receipt.turns)} and {receipt.derived} summaries.")
        for where in receipt.remains:
            _say(f"May remain: {where}", "dim")

    # -- inside

    def _turns(self) -> int:
        from tomtat.talking import turns_of

        return turns_of(self.memory, self.name)

    def _show(self, turns: "Sequence[Turn]") -> None:
        from tomtat.memory.framing import said, speaker_of

        for turn in turns:
            _say(f"{turn.seq:4}  {speaker_of(turn.message)}: ", "bold", end="")
            _say(said(turn.message))


def _count_of(turns: int) -> str:
    return f"{turns:,} turn{'' if turns == 1 else 's'}"


def _lines() -> Iterator[str]:
    """What a person types, or a pipe holds."""
    if sys.stdin is None:  # closed
        return
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401, arrow keys and earlier lines come with it
    with suppress(AttributeError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():
                _say("")  # below the prompt
            return
        except KeyboardInterrupt:
            _say("\nCtrl-D or /quit leaves.", "yellow")
            continue
        if any("\ud800" <= sign <= "\udfff" for sign in line):
            _say(f"This line is not in {sys.stdin.encoding.upper()}, and was not sent: {line}", "yellow")
        elif line:
            yield line


def _say(text: str, style: str | None = None, end: str = "\n") -> None:
    # As it was said: `:key:` in a turn is no emoji.
    console.print(harmless(text), style=style, end=end, markup=False, emoji=False, highlight=False, soft_wrap=True)
