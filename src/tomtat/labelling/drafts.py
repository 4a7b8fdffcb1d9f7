"""Drafts as values, and what people decide about them. The command line's review and the page call these functions.

    drafts = load("labelled.jsonl")                  # the --out of `tomtat label`, or its .drafts.jsonl
    waiting = [draft for draft in drafts if draft.is_waiting]
    draft = waiting[0]
    print(draft.source_text, draft.text, draft.reasons, draft.marks())
    accept("labelled.jsonl", draft.key)              # as it stands
    correct("labelled.jsonl", draft.key, "Ann moves her appointment to Friday.")
    reject("labelled.jsonl", draft.key)
    publish("labelled.jsonl")                        # writes the rows that train: those that passed or were accepted

`load` gives what the file says now; each decision is appended to it and synced, and gives the draft as it is then. A
decision can be taken again: the last one counts. While another process writes, decisions are a RunError ("Another
process ...") and nothing is changed. Nothing here asks a model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tomtat.data.rows import to_message
from tomtat.errors import DataError
from tomtat.files import write_json_lines
from tomtat.labelling.journal import Event, Journal, journal_path, open_journal, output_path, read_events
from tomtat.prompts import source_text
from tomtat.text import Detail, Details, details
from tomtat.types import Message, Source

Decision = Literal["accepted", "corrected", "rejected"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
Status = Literal["passed", "review", "accepted", "corrected", "rejected"]
"""`passed`: no fault was found. `review`: one was, and nobody decided yet. The others are people's decisions."""
TRAINS: tuple[Status, ...] = ("passed", "accepted", "corrected")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer of the model, and what was found wrong with it."""

    text: str
    reasons: tuple[str, ...]
    """Why it may not stand for its chat, in words; none where it passed."""
    prompt_tokens: int
    new_tokens: int
    is_estimated: bool = False
    """The server reported no tokens, or none that can be believed."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A row of the data that the draft is for."""

    id: str | int
    row: int
    """Its place in the data, from 0."""
    source: Source


@dataclass(frozen=True, slots=True)
class Draft:
    """What one question brought. Rows with the same text share it."""

    key: str
    """Identifies it in the file: a hash of the chat, the prompt and the model."""
    model: str
    chats: tuple[Chat, ...]
    attempts: tuple[Attempt, ...]
    decision: Decision | None = None
    summary: str | None = None
    """What a person accepted or wrote."""

    @property
    def id(self) -> str | int:
        """Of its (first) row."""
        return self.chats[0].id

    @property
    def source_text(self) -> str:
        """The chat to read beside the draft: one `Speaker: words` line per message."""
        return source_text(self.chats[0].source)

    @property
    def best(self) -> int:
        """Place in `attempts` of the one with the fewest faults, the later of equals."""
        return min(
            range(len(self.attempts)), key=lambda n: (not self.attempts[n].text, len(self.attempts[n].reasons), -n)
        )

    @property
    def text(self) -> str:
        """The best answer, word for word."""
        return self.attempts[self.best].text

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is wrong with it; empty where it passed."""
        return self.attempts[self.best].reasons

    @property
    def status(self) -> Status:
        return self.decision or ("review" if self.reasons else "passed")

    @property
    def is_waiting(self) -> bool:
        """A person should look at it: it was refused, and nobody decided."""
        return self.status == "review"

    @property
    def trains(self) -> bool:
        return self.status in TRAINS

    @property
    def accepted(self) -> str:
        """The summary to train on, where `trains`."""
        return self.summary if self.summary is not None else self.text

    def marks(self, text: str | None = None) -> list[Detail]:
        """Numbers, names and dates of the draft (or of another text for its chat) that stand nowhere in the chat.

        Each has `kind`, `text`, and `start` and `end`, its place in the text in characters.
        """
        source = Details(self.source_text)
        return [detail for detail in details(self.text if text is None else text, source) if not source.has(detail)]


def load(path: Path | str) -> list[Draft]:
    """All drafts of a file, in the order of their rows; one per row: of several (another prompt, another model) the one
    that a person accepted, else the one that passed, else the newest.

    path: the `--out` of `tomtat label`, or the `.drafts.jsonl` beside it. It may be read while drafts come.

    Raises: DataError where there are no drafts; RunError where the file is damaged.
    """
    place = journal_path(Path(path))
    if not place.is_file():
        raise DataError(f"There are no drafts at {place}. Make some with tomtat label CHATS --upstream URL.")
    return chosen(read_events(place))


def accept(path: Path | str, key: str) -> Draft:
    """The draft's best answer is right as it stands.

    Raises: DataError where there is no such draft, or nothing in it; RunError where another process writes.
    """
    return _decide(path, key, "accepted", None)


def correct(path: Path | str, key: str, summary: str) -> Draft:
    """`summary` is what the chat should be summarized as, whatever the checks say of it. (`Draft.marks(summary)` says
    what of it stands nowhere in the chat, to show it to the person before.)

    Raises: DataError where it is empty, or there is no such draft; RunError where another process writes.
    """
    return _decide(path, key, "corrected", summary)


def reject(path: Path | str, key: str) -> Draft:
    """The chat gets no summary from this draft, and does not train.

    Raises: DataError where there is no such draft; RunError where another process writes.
    """
    return _decide(path, key, "rejected", None)


def publish(path: Path | str) -> int:
    """Write the rows that train into the output file, whole or not at all; their number.

    Summaries that somebody changed in that file by hand since are taken as corrections first.

    Raises: DataError where the output file is something else; RunError where another process writes.
    """
    with open_journal(journal_path(Path(path))) as journal:
        return publish_into(output_path(Path(path)), journal)


def _decide(path: Path | str, key: str, decision: Decision, summary: str | None) -> Draft:
    place = journal_path(Path(path))
    load(place)
    with open_journal(place) as journal:
        draft = drafts_of(journal.events).get(key)
        if draft is None:
            raise DataError(f"{place} has no draft {key!r}. Was it made with another --out?")
        return keep_decisions(journal, [decided(draft, decision, summary)])[0]


def decided(draft: Draft, decision: Decision, summary: str | None = None) -> Draft:
    """The draft with a decision, written nowhere yet. A correction that changes nothing is an acceptance.

    Raises: DataError where the summary would be empty.
    """
    if decision == "rejected":
        return replace(draft, decision=decision, summary=None)
    text = draft.text if decision == "accepted" else (summary or "").strip()
    if not text:
        what = "there is nothing in it to accept: correct or reject it" if decision == "accepted" else "write a summary"
        raise DataError(f"{draft.id}: an empty summary trains nobody; {what}.")
    return replace(draft, decision="accepted" if text == draft.text else decision, summary=text)


def keep_decisions(journal: Journal, drafts: Sequence[Draft]) -> Sequence[Draft]:
    """Write decisions, all together."""
    if drafts:
        journal.append(
            *(
                {"event": "decision", "key": draft.key, "decision": draft.decision, "summary": draft.summary}
                for draft in drafts
            )
        )
    return drafts


# -- events and values


def chat_event(key: str, model: str, chat: Chat) -> Event:
    source = chat.source
    held = {"text": source} if isinstance(source, str) else {"messages": [as_openai(message) for message in source]}
    return {"event": "chat", "key": key, "model": model, "id": chat.id, "row": chat.row, **held}


def draft_event(key: str, attempt: Attempt, finish_reason: str | None, served_by: str | None) -> Event:
    usage = {"prompt_tokens": attempt.prompt_tokens, "completion_tokens": attempt.new_tokens}
    return {
        "event": "draft", "key": key, "text": attempt.text, "reasons": list(attempt.reasons), "usage": usage,
        "usage_is_estimated": attempt.is_estimated, "finish_reason": finish_reason, "served_by": served_by,
    }  # fmt: skip


def as_openai(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        value["tool_calls"] = [
            {
                **({"id": call.id} if call.id is not None else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    for name in ("name", "id"):
        if (given := getattr(message, name)) is not None:
            value[name] = given
    return value


def source_of(event: Event) -> Source:
    if "text" in event:
        return str(event["text"])
    return tuple(to_message(message, number) for number, message in enumerate(event["messages"], start=1))


def drafts_of(events: Sequence[Event]) -> dict[str, Draft]:
    """By their keys, in the order in which they came; those alone that have an answer."""
    chats: dict[str, dict[str | int, Chat]] = {}
    models: dict[str, str] = {}
    attempts: dict[str, list[Attempt]] = {}
    decided: dict[str, Event] = {}
    for event in events:
        key = str(event.get("key"))
        if event["event"] == "chat":
            models[key] = event["model"]
            chats.setdefault(key, {})[event["id"]] = Chat(event["id"], event["row"], source_of(event))
        elif event["event"] == "draft":
            attempts.setdefault(key, []).append(_attempt(event))
        elif event["event"] == "decision":
            decided[key] = event
    return {
        key: Draft(
            key, models[key], tuple(chats[key].values()), tuple(found),
            decided[key]["decision"] if key in decided else None, decided[key]["summary"] if key in decided else None,
        )
        for key, found in attempts.items()
        if key in chats
    }  # fmt: skip


def _attempt(event: Event) -> Attempt:
    usage = event["usage"]
    return Attempt(
        event["text"],
        tuple(event["reasons"]),
        usage["prompt_tokens"],
        usage["completion_tokens"],
        event["usage_is_estimated"],
    )


_RANKS: Mapping[Status, int] = {"rejected": 0, "review": 1, "passed": 2, "accepted": 3, "corrected": 3}


def chosen(events: Sequence[Event]) -> list[Draft]:
    """One per row, in the rows' order. Drafts of a text that a row had once and has no more are for no row."""
    now: dict[str | int, Event] = {event["id"]: event for event in events if event["event"] == "chat"}
    texts = {id_: source_of(event) for id_, event in now.items()}
    best: dict[str | int, Draft] = {}
    for draft in drafts_of(events).values():
        for chat in draft.chats:
            before = best.get(chat.id)
            if chat.source == texts[chat.id] and (before is None or _RANKS[draft.status] >= _RANKS[before.status]):
                best[chat.id] = draft
    found: dict[str, Draft] = {}
    for id_ in sorted(best, key=lambda id_: int(now[id_]["row"])):
        draft = best[id_]
        chat = Chat(id_, now[id_]["row"], texts[id_])
        before = found.get(draft.key)
        found[draft.key] = replace(draft, chats=(*before.chats, chat) if before else (chat,))
    return list(found.values())


# -- the rows that train


def publish_into(out: Path, journal: Journal) -> int:
    known = drafts_of(journal.events)
    keep_decisions(journal, _changed_by_hand(out, known, journal))
    drafts = chosen(journal.events)
    rows = sorted(
        ((chat.row, _row(chat, draft)) for draft in drafts if draft.trains for chat in draft.chats),
        key=lambda pair: pair[0],
    )
    write_json_lines(out, (row for _, row in rows))
    return len(rows)


def _row(chat: Chat, draft: Draft) -> dict[str, Any]:
    source = chat.source
    held = {"text": source} if isinstance(source, str) else {"messages": [as_openai(message) for message in source]}
    used = draft.attempts
    told: dict[str, Any] = {"key": draft.key, "verdict": draft.status, "model": draft.model}
    if draft.status != "passed":
        told["reasons"] = list(draft.reasons)
    if draft.status == "corrected":
        told["text"] = draft.text
    told["usage"] = {
        "prompt_tokens": sum(attempt.prompt_tokens for attempt in used),
        "completion_tokens": sum(attempt.new_tokens for attempt in used),
    }
    return {"id": chat.id, **held, "summary": draft.accepted, "draft": told}


def _changed_by_hand(out: Path, known: Mapping[str, Draft], journal: Journal) -> list[Draft]:
    """Summaries in the output file that no draft and no decision ever had: somebody's work, not to be written over."""
    rows = _ours(out)
    said: dict[str, set[str]] = {key: {attempt.text for attempt in draft.attempts} for key, draft in known.items()}
    for event in journal.events:
        if event["event"] == "decision" and event["summary"] is not None:
            said.setdefault(event["key"], set()).add(event["summary"])
    found = {}
    for row in rows:
        key, summary = row["draft"]["key"], row["summary"].strip()
        if key in known and summary and summary not in said[key]:
            found[key] = decided(known[key], "corrected", summary)
    return list(found.values())


def require_ours(out: Path) -> None:
    """Raises: DataError where a file is there that `tomtat label` did not write."""
    _ours(out)


def _ours(out: Path) -> list[dict[str, Any]]:
    if not out.exists():
        return []
    try:
        lines = out.read_text(encoding="utf-8").split("\n") if out.is_file() else ["a folder"]
        rows = [json.loads(line) for line in lines if line.strip()]
        if all(isinstance(row["summary"], str) and isinstance(row["draft"]["key"], str) for row in rows):
            return rows
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{out} is something else than accepted drafts, or was damaged. Name another --out, or mend it.")
