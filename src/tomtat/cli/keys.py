"""`tomtat keys`."""

from pathlib import Path
from typing import Annotated

import typer

from tomtat.cli.terminal import console, error_console, print_table

keys_app = typer.Typer(
    no_args_is_help=True, help="Keys of a server's tenants: made, listed, removed, while servers run."
)

DEFAULT_FILE = Path("keys.json")

File = Annotated[
    Path,
    typer.Option("--keys", "-k", metavar="FILE", help="Where they lie; the same file goes to tomtat serve --keys."),
]


@keys_app.command("add")
def add_command(
    tenant: Annotated[str, typer.Argument(help="Whose key: who sees which conversations.")],
    name: Annotated[str | None, typer.Option(help="To remove it by. Default: the tenant's, with a number.")] = None,
    keys: File = DEFAULT_FILE,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="With this key.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Of the tenant, by UTC's days.")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=36500, help="So long it is valid; else until removed.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May load summarizers, and read /metrics from afar.")] = False,
) -> None:
    """Make a key. It is printed once and kept nowhere: the file has its SHA-256.

    tomtat keys add acme --requests-per-minute 600 --tokens-per-day 5000000
    """
    from tomtat.server.keys import add_key

    record, key = add_key(
        keys, tenant, name=name, requests_per_minute=requests_per_minute, tokens_per_day=tokens_per_day, admin=admin,
        days=days,
    )  # fmt: skip
    error_console.print(
        f"Key {record.name} of tenant {record.tenant}, in {keys}. It is shown this once:",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    # Alone on standard output, so that it can be piped to where it is kept.
    print(key)


@keys_app.command("list")
def list_command(keys: File = DEFAULT_FILE) -> None:
    """The keys, by name: whose, since when, with which limits."""
    from tomtat.server.keys import list_keys

    rows = [
        [
            record.name,
            record.tenant,
            f"{record.created:%Y-%m-%d}",
            ("gone " if not record.is_valid else "") + f"{record.expires:%Y-%m-%d}" if record.expires else "-",
            _count(record.requests_per_minute),
            _count(record.tokens_per_day),
            "admin" if record.admin else "",
        ]
        for record in list_keys(keys)
    ]
    print_table(["name", "tenant", "made", "until", "requests/minute", "tokens/day", ""], rows)


@keys_app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(help="The key's name, as `tomtat keys list` shows it.")],
    keys: File = DEFAULT_FILE,
) -> None:
    """Remove a key: running servers refuse it from the next request on. Conversations stay."""
    from tomtat.server.keys import remove_key

    gone = remove_key(keys, name)
    console.print(f"Removed: {gone.name} of {gone.tenant}.", markup=False, highlight=False, soft_wrap=True)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
