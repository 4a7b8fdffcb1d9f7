"""`tomtat store`."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tomtat.cli.terminal import TerminalProgress, console, error_console, harmless, print_table

if TYPE_CHECKING:
    from tomtat.store import SqlStore, Turn

store_app = typer.Typer(
    no_args_is_help=True,
    help="Conversations kept whole: look into a store, search it, move it, check it, erase from it.",
)

Place = Annotated[
    str | None,
    typer.Option(
        "--store", "-S", metavar="PLACE",
        help="A SQLite file or postgresql://user@host/database. Default: $TOMTAT_STORE, or a file in the user's data.",
    ),
]  # fmt: skip
TenantName = Annotated[str, typer.Option("--tenant", help="Whose conversations.")]
User = Annotated[str | None, typer.Option("--user", help="Only this user's.")]
Conversation = Annotated[str, typer.Argument(metavar="CONVERSATION", help="Its name.")]
BranchNumber = Annotated[int | None, typer.Option("--branch", min=0, help="Not the newest branch, but this one.")]
Meaning = Annotated[
    bool,
    typer.Option(
        "--meaning", help="Use all-MiniLM-L6-v2 (tomtat models pull minilm): finds what is said in other words."
    ),
]


@store_app.command("list")
def list_command(store: Place = None, tenant: TenantName = "default", user: User = None) -> None:
    """The conversations, with their turns and users.

    tomtat store list --user ann
    """
    with open_place(store, tenant) as opened:
        rows = [
            [found.conversation, found.user or "-", str(found.last), str(found.branch + 1), _day(found.created)]
            for found in opened.conversations(user=user)
        ]
    print_table(["conversation", "user", "turns", "branches", "begun"], rows)


@store_app.command("history")
def history_command(
    conversation: Conversation,
    store: Place = None,
    tenant: TenantName = "default",
    branch: BranchNumber = None,
    newest: Annotated[int | None, typer.Option("--newest", "-n", min=0, help="Only so many, the newest.")] = None,
    last: Annotated[int | None, typer.Option("--as-of", min=0, help="As it was when this turn was the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """The turns of a conversation, in order.

    tomtat store history chat-1 --newest 20
    """
    with open_place(store, tenant) as opened:
        turns = opened.history(conversation, branch=branch, newest=newest, last=last)
    for turn in turns:
        if as_json:
            print(json.dumps({"turn": turn.seq, "at": turn.at, "message": turn.message}, ensure_ascii=False))
        else:
            _print_turn(turn)


@store_app.command("search")
def search_command(
    query: Annotated[str, typer.Argument(help="A question, or words.")],
    store: Place = None,
    tenant: TenantName = "default",
    conversation: Annotated[str | None, typer.Option("--in", help="Only this conversation.")] = None,
    user: User = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many turns at most.")] = 10,
    meaning: Meaning = False,
) -> None:
    """The turns that a question asks about, best first.

    tomtat store search "which order came cracked?" --in chat-1
    """
    with open_place(store, tenant, meaning) as opened:
        hits = opened.search(query, conversation=conversation, user=user, limit=limit)
    if not hits:
        error_console.print("Nothing found.")
    for hit in hits:
        _print_turn(hit.turn, f"{hit.conversation}, ")


@store_app.command("stats")
def stats_command(store: Place = None, tenant: TenantName = "default") -> None:
    """How much there is, and how much room it takes."""
    with open_place(store, tenant) as opened:
        found = opened.stats()
    rows = [
        ["conversations", f"{found.conversations:,}"],
        ["branches", f"{found.branches:,}"],
        ["users", f"{found.users:,}"],
        ["turns", f"{found.turns:,}"],
        ["  compressed", f"{found.packed_turns:,}"],
        ["  with a vector", f"{found.embedded_turns:,}"],
        ["derived rows", f"{found.derived:,}"],
        ["set aside as damaged", f"{found.damaged:,}"],
        ["MB on disk, all tenants", f"{found.disk_bytes / 1e6:.1f}"],
    ]
    print_table([f"tenant {tenant}", ""], rows)


@store_app.command("export")
def export_command(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; by default standard output.")] = None,
    store: Place = None,
    tenant: TenantName = "default",
    conversation: Annotated[str | None, typer.Option("--conversation", help="Only this one.")] = None,
    user: User = None,
) -> None:
    """Everything as JSON Lines: to back up, to move to another store, to read elsewhere.

    tomtat store export -o chats.jsonl
    """
    from tomtat.errors import StoreError
    from tomtat.files import write_json_lines

    with open_place(store, tenant) as opened:
        rows = opened.export(conversation=conversation, user=user)
        if out is None:
            for row in rows:
                print(json.dumps(row, ensure_ascii=False))
            return
        try:
            write_json_lines(out, rows)
        except OSError as error:
            raise StoreError(f"--out {out}: {error.strerror}; nothing was left there.") from None
    console.print(f"Written: {out}", markup=False, highlight=False, soft_wrap=True)


@store_app.command("import")
def import_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSON Lines; - for standard input.")],
    store: Place = None,
    tenant: TenantName = "default",
    user: Annotated[str | None, typer.Option("--user", help="Whose chats these are, for rows that don't say.")] = None,
) -> None:
    """What `export` wrote, or chats: rows with `messages` in OpenAI's shape, and an `id`.

    Safe to repeat: turns that are there already are not stored again.

    tomtat store import chats.jsonl
    """
    with open_place(store, tenant) as opened, TerminalProgress().task("import", _count_lines(path), "rows") as advance:
        rows = _told(_rows(path), advance)
        first = next(rows, None)
        if first is not None and "messages" in first:
            new, known, count = _import_chats(opened, first, rows, user)
            derived = 0
        else:
            done = opened.import_(row for part in ([first] if first is not None else [], rows) for row in part)
            new, known, count, derived = done.turns, done.known, done.conversations, done.derived
    console.print(
        f"{count:,} conversations: {new:,} new turns, {known:,} known ones, {derived:,} new derived rows.",
        highlight=False,
    )


@store_app.command("erase")
def erase_command(
    conversation: Annotated[str | None, typer.Option("--conversation", help="This one.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="All of this user's.")] = None,
    store: Place = None,
    tenant: TenantName = "default",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove a conversation or all of a user's for good: turns, what was made of them, index entries, vectors.

    tomtat store erase --user ann
    """
    from tomtat.errors import StoreError

    what = f"conversation {conversation}" if conversation is not None else f"all conversations of {user}"
    if conversation is not None or user is not None:
        if not yes and not sys.stdin.isatty():
            raise StoreError(f"Erasing {what} can't be undone, and nobody is there to ask: give --yes.")
        if not yes and not typer.confirm(f"Erase {what}? This can't be undone"):
            raise typer.Exit(1)
    with open_place(store, tenant) as opened:
        receipt = opened.erase(conversation=conversation, user=user)
    rows = [
        ["conversations", f"{receipt.conversations:,}"],
        ["turns", f"{receipt.turns:,}"],
        ["derived rows", f"{receipt.derived:,}"],
        ["at", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(receipt.at))],
        [
            "files rewritten",
            "yes" if receipt.files_rewritten else "not yet: others read them; run tomtat store tidy later",
        ],
    ]
    print_table(["erased", ""], rows)
    console.print(f"Out of reach: {'; '.join(receipt.remains)}.", highlight=False, soft_wrap=True)


@store_app.command("check")
def check_command(
    store: Place = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Set damaged rows aside so that the rest can be read, make a wrong index anew."),
    ] = False,
) -> None:
    """Read everything and compare it with its checksums. Ends with 1 where something is wrong and was not repaired.

    tomtat store check --repair
    """
    with open_place(store, "default") as opened:
        health = opened.check(repair=repair)
    if health.is_sound:
        console.print(f"{health.turns:,} turns, all sound.", highlight=False)
        return
    rows = [
        [
            found.conversation or "the whole store",
            "-" if found.branch is None else str(found.branch),
            "-" if found.first is None else f"{found.first} to {found.last}",
            found.what,
            found.repaired or "run with --repair",
        ]
        for found in health.findings
    ]
    print_table(["conversation", "branch", "turns", "what", "done"], rows)
    if not all(found.repaired for found in health.findings):
        raise typer.Exit(1)


@store_app.command("tidy")
def tidy_command(store: Place = None, meaning: Meaning = False) -> None:
    """Index, compress and embed what waits: what a store does by itself when it is closed, and a server from time to
    time."""
    with open_place(store, "default", meaning) as opened:
        opened.tidy()
        found = opened.stats()
    console.print(f"{found.disk_bytes / 1e6:.1f} MB on disk.", highlight=False)


def open_place(place: str | None, tenant: str, meaning: bool = False) -> "SqlStore":
    from tomtat.store import open_store

    embedder = None
    if meaning:
        from tomtat.models.embedding import MiniLM

        embedder = MiniLM()
    return open_store(place, tenant=tenant, embedder=embedder)


def _print_turn(turn: "Turn", before: str = "") -> None:
    from tomtat.store.messages import text_of

    message = turn.message
    who = message.get("name") or message["role"]
    told = text_of({key: value for key, value in message.items() if key != "name"}) or "(nothing to read)"
    head = harmless(f"{before}{turn.seq}  {who}  {_day(turn.at)}")
    console.print(head, style="bold", markup=False, emoji=False, highlight=False, soft_wrap=True)
    console.print(harmless(told) + "\n", markup=False, emoji=False, highlight=False, soft_wrap=True)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    from tomtat.errors import StoreError

    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise StoreError(f"{path}, line {number}: not JSON ({error}).") from None
                if not isinstance(row, dict):
                    raise StoreError(f"{path}, line {number}: an object is wanted, not {type(row).__name__}.")
                yield row
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise StoreError(f"{path} is not UTF-8.") from None


def _told(rows: Iterator[dict[str, Any]], advance: Any) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row
        advance(1)


def _count_lines(path: Path) -> int:
    if str(path) == "-" or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _without_id(message: Any) -> Any:
    return {key: value for key, value in message.items() if key != "id"} if isinstance(message, dict) else message


def _import_chats(
    store: "SqlStore", first: dict[str, Any], rows: Iterator[dict[str, Any]], user: str | None
) -> tuple[int, int, int]:  # fmt: skip
    """New turns, known turns and conversations."""
    from tomtat.errors import StoreError

    new = known = count = 0
    row: dict[str, Any] | None = first
    while row is not None:
        count += 1
        if not isinstance(row.get("messages"), list) or not row.get("id"):
            raise StoreError(f"Row {count}: a chat has an id and a list of messages (this has {', '.join(row)}).")
        # Ids of messages are unique within a chat at best; here the chain tells what is known.
        messages = [_without_id(message) for message in row["messages"]]
        try:
            done = store.append(str(row["id"]), messages, user=row.get("user") or user, after=0, fork=True)
        except StoreError as error:
            raise StoreError(f"Row {count}: {error}") from None
        new, known = new + done.new, known + len(messages) - done.new
        row = next(rows, None)
    return new, known, count
