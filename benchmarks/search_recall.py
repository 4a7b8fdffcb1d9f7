"""How much of what a question asks about does the store's search find?

    python benchmarks/search_recall.py --locomo data/locomo/conversations.jsonl --beam data/beam/conversations.jsonl

LoCoMo's answerable questions and BEAM's probes for extraction and updates, each with the turns that hold its answer
(evidence). Every chat goes into a store of its own, each question is searched there, and counted is the share of all
evidence turns within the first 10, 20 and 50 hits, and, for LoCoMo, within 2, 5 and 10 % of the chat's words (turns in
the order found; one that does not fit is left out). The constants of `tomtat.store.ranking` were chosen on LoCoMo 0
and 1 and BEAM 0 to 2; the table shows the others, `--validation` those. Against: BM25 over whole words, the usual
search, with and without the speaker's name in the text.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tomtat.store import Embedder, SqlStore, open_store
from tomtat.store.ranking import bm25
from tomtat.text import words

PROBES = ("information_extraction", "knowledge_update")
HITS = (10, 20, 50)
SHARES = (2, 5, 10)
CHOSEN_ON = {"locomo": 2, "beam": 3}
"""The first so many chats of each set."""


class Question(NamedTuple):
    text: str
    evidence: frozenset[int]
    """Places of turns, from 0."""


class Chat(NamedTuple):
    kind: str
    messages: list[dict[str, Any]]
    questions: list[Question]


Search = Callable[[str], Sequence[int]]
"""A question to places of turns, best first."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--locomo", type=Path, required=True)
    arguments.add_argument("--beam", type=Path)
    arguments.add_argument("--validation", action="store_true", help="the chats that the constants were chosen on")
    arguments.add_argument("--no-vectors", action="store_true", help="leave the rows with all-MiniLM-L6-v2 out")
    options = arguments.parse_args()

    chats = [
        chat
        for number, chat in enumerate(read_locomo(options.locomo))
        if (number < CHOSEN_ON["locomo"]) == options.validation
    ]
    if options.beam:
        chats += [
            chat
            for number, chat in enumerate(read_beam(options.beam))
            if (number < CHOSEN_ON["beam"]) == options.validation
        ]
    systems: dict[str, Callable[[Chat], Search]] = {
        "BM25 over words": lambda chat: words_search(chat, with_speaker=False),
        "BM25 over words and speaker": lambda chat: words_search(chat, with_speaker=True),
        "store": lambda chat: store_search(chat, None),
    }
    if not options.no_vectors:
        from tomtat.models.embedding import MiniLM

        embedder = MiniLM()
        systems["store with vectors"] = lambda chat: store_search(chat, embedder)
    table = {name: measure(chats, system) for name, system in systems.items()}
    columns = list(table["store"])
    print("@10: evidence within the first 10 hits. 10%: within 10 % of the chat's words.")
    print(f"{'% of evidence turns':30}" + "".join(f"{column:>12}" for column in columns))
    for name, row in table.items():
        print(f"{name:30}" + "".join(f"{row[column]:12.1f}" for column in columns))
    print(json.dumps({"split": "validation" if options.validation else "test", **table}))


def read_locomo(path: Path) -> Iterator[Chat]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        turns = [turn for session in row["sessions"] for turn in session["turns"]]
        place = {turn["id"]: number for number, turn in enumerate(turns)}
        messages = []
        for turn in turns:
            image = f" [image: {turn['image_caption']}]" if turn.get("image_caption") else ""
            messages.append({"role": "user", "name": turn["speaker"], "content": turn["text"] + image})
        questions = [
            Question(asked["question"], frozenset(place[turn] for turn in asked["evidence"] if turn in place))
            for asked in row["qa"]
            if asked.get("answerable", True)
        ]
        yield Chat("locomo", messages, [question for question in questions if question.evidence])


def read_beam(path: Path) -> Iterator[Chat]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        place = {turn["id"]: number for number, turn in enumerate(row["turns"])}
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in row["turns"]]
        yield Chat("beam", messages, [
            Question(probe["question"], frozenset(place[turn] for turn in probe["evidence"]))
            for probe in row["probes"]
            if probe["type"] in PROBES
        ])  # fmt: skip


def measure(chats: Sequence[Chat], system: Callable[[Chat], Search]) -> dict[str, float]:
    found: dict[str, int] = {}
    total: dict[str, int] = {}
    for chat in chats:
        search = system(chat)
        lengths = [
            len(f"{message.get('name', message['role'])}: {message['content']}".split()) for message in chat.messages
        ]
        for question in chat.questions:
            order = search(question.text)
            total[chat.kind] = total.get(chat.kind, 0) + len(question.evidence)
            taken = {f"{chat.kind} @{count}": set(order[:count]) for count in HITS}
            if chat.kind == "locomo":
                taken |= {f"locomo {share}%": within(order, lengths, share) for share in SHARES}
            for name, places in taken.items():
                found[name] = found.get(name, 0) + len(question.evidence & places)
    return {name: round(100 * count / total[name.split()[0]], 1) for name, count in found.items()}


def within(order: Sequence[int], lengths: Sequence[int], share: int) -> set[int]:
    left = sum(lengths) * share / 100
    taken = set()
    for place in order:
        if lengths[place] <= left:
            taken.add(place)
            left -= lengths[place]
    return taken


def store_search(chat: Chat, embedder: Embedder | None) -> Search:
    folder = tempfile.TemporaryDirectory()
    store: SqlStore = open_store(Path(folder.name) / "store.db", embedder=embedder)
    store.append("chat", chat.messages)
    store.tidy()
    many = len(chat.messages)

    def search(question: str, keep: Any = folder) -> Sequence[int]:
        return [hit.turn.seq - 1 for hit in store.search(question, conversation="chat", limit=many)]

    return search


def words_search(chat: Chat, with_speaker: bool) -> Search:
    bags = []
    for message in chat.messages:
        speaker = message.get("name", message["role"]) if with_speaker else ""
        bags.append(words(f"{speaker} {message['content']}"))
    lengths = np.array([len(bag) for bag in bags])

    def search(question: str) -> Sequence[int]:
        counts = {}
        for word in dict.fromkeys(words(question)):
            frequency = np.array([bag.count(word) for bag in bags])
            [positions] = frequency.nonzero()
            counts[word] = positions, frequency[positions]
        scores = bm25(counts, dict.fromkeys(counts, 1.0), lengths)
        return [int(place) for place in np.argsort(-scores, kind="stable")]

    return search


if __name__ == "__main__":
    main()
