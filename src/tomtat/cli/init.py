"""`tomtat init`."""

from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.terminal import console, harmless, print_next


def init_command(
    source: Annotated[str, typer.Argument(metavar="FILE", help="Your data: texts or chats with their summaries.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The recipe to write; by default FILE's name with .toml.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Data to choose the best epoch by; else a slice of FILE.", metavar="FILE")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Data to score on; else a slice of FILE.", metavar="FILE")] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model; by default one for the data's language.", metavar="MODEL")
    ] = None,
    source_field: Annotated[
        str | None, typer.Option("--source-field", help="The column with the text.", metavar="NAME")
    ] = None,
    summary_field: Annotated[
        str | None, typer.Option("--summary-field", help="The column with the summary.", metavar="NAME")
    ] = None,
) -> None:
    """Write a recipe for your own data, by looking at it.

    tomtat init mine.jsonl

    tomtat init train.csv --validation dev.csv --test test.csv --out news.toml
    """
    from tomtat.checking.drafting import draft_recipe, recipe_name, require_free, save_recipe
    from tomtat.errors import ConfigError

    if source == "-":
        raise ConfigError("A recipe can't name standard input: save the data as a file, and name that.")
    path = out or Path(recipe_name(source))
    require_free(path)
    given = {"model.name": model, "data.source_field": source_field, "data.summary_field": summary_field}
    draft = draft_recipe(source, path, validation, test, {name: value for name, value in given.items() if value})
    save_recipe(draft, path)
    for line in draft.found:
        console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nRecipe: {path}", markup=False, highlight=False, soft_wrap=True)
    print_next(f"train {path}")
