"""`tomtat push`."""

from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.terminal import TerminalProgress, console, print_table


def push_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Repository on the hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Only you and your organization see it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and print the model card; the network is not touched.")
    ] = False,
    base_id: Annotated[
        str | None, typer.Option("--base-id", help="The base model's hub id, if the run was trained from a folder.")
    ] = None,
) -> None:
    """Upload a run's adapter or model to the hub, with its model card and the base's id and hash.

    tomtat push runs/mine nina/chat-summaries --dry-run

    tomtat push runs/mine nina/chat-summaries --private
    """
    from tomtat.exporting import push

    pushed = push(run, repo, private, dry_run, base_id, TerminalProgress())
    print_table(["file", "bytes"], [[name, f"{size:,}"] for name, size in pushed.files])
    if pushed.url is None:
        console.print(f"\n{pushed.card}", markup=False, highlight=False, soft_wrap=True, end="")
        console.print(f"\nNothing was uploaded to {pushed.repo}.", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(f"\n{pushed.url}", markup=False, highlight=False, soft_wrap=True)
