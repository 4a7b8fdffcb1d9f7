"""What a question finds: the same turns on every store, in any script, new or long compressed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, says
from tomtat.store.conformance.subject import Subject, needs_wide_search
from tomtat.store.values import Hit, Turn

SAID = [
    says("My order LM-48213 arrived with a cracked screen."),
    says("I am sorry to hear that. Could you send a photo of it?", "assistant"),
    says("Chị bán rau ở chợ Bến Thành từ năm 1998."),
    says("Bạn thân của tôi sống ở Đà Nẵng."),
    says("我昨天在北京大学见到了王老师，他说考试改到星期五。"),
    says("来週の会議は東京タワーの近くで行います。"),
    says("พรุ่งนี้ฉันจะไปตลาดน้ำกับแม่"),
    says("Встреча с бухгалтером перенесена на вторник."),
    says("The code is ＡＢＣ１２３ in full width letters."),
    says("Invoice 2024-0099 was paid on 3 March.", "assistant"),
    says("We danced at the wedding in Lisbon until four."),
    says("The bicycle has a flat tyre again.", name="Minh"),
    says(None, "assistant", tool_calls=[{"id": "c", "type": "function", "function": {"name": "weather_report", "arguments": '{"city": "Ouagadougou"}'}}]),
    says([{"type": "text", "text": "What kind of mushroom is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]),
    says("Die Straße nach Köln ist gesperrt."),
    says("A zebra, a zebra and once more a zebra were seen."),
    says("Somebody mentioned one zebra only, beside many other things that were talked about at length that day."),
]  # fmt: skip
FIRST_HITS = [
    ("LM-48213", 1),
    ("which order came with a cracked screen?", 1),
    ("CRACKED", 1),
    ("could you send a photo", 2),
    ("bán", 3),
    ("bán rau", 3),
    ("1998", 3),
    ("bạn", 4),
    ("đà nẵng", 4),
    ("ĐÀ NẴNG", 4),
    ("考试", 5),
    ("北京大学", 5),
    ("王老师", 5),
    ("東京タワー", 6),
    ("来週", 6),
    ("ตลาดน้ำ", 7),
    ("бухгалтером", 8),
    ("ВТОРНИК", 8),
    ("abc123", 9),
    ("ＡＢＣ１２３", 9),
    ("2024-0099", 10),
    ("invoice March", 10),
    ("who danced at the wedding in Lisbon?", 11),
    ("bicycle", 12),
    ("weather report", 13),
    ("Ouagadougou", 13),
    ("mushroom", 14),
    ("Straße", 15),
    ("zebra", 16),
]


@pytest.fixture(scope="module")
def talked(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    """The same turns, new and compressed."""
    stores: dict[str, Store] = {}
    folder: Path = tmp_path_factory.mktemp("talked")
    for age in ("new", "compressed"):
        (folder / age).mkdir()
        stores[age] = subject.open(subject.new_place(folder / age))
        stores[age].append("chat", SAID)
    stores["compressed"].append("chat", chat(330, "something entirely other, of no interest,"))
    stores["compressed"].tidy()
    yield stores
    for store in stores.values():
        store.close()


@pytest.mark.parametrize("age", ["new", "compressed"])
@pytest.mark.parametrize(("query", "seq"), FIRST_HITS)
def test_a_question_finds_its_turn_first(talked: dict[str, Store], age: str, query: str, seq: int) -> None:
    hits = talked[age].search(query, conversation="chat")

    assert hits
    assert hits[0].turn == talked[age].history("chat", first=seq, last=seq)[0]
    assert hits[0].conversation == "chat"


@pytest.mark.parametrize(
    "query", ["", " ", "?!", "\0", "xylophone", "48214", "'", '"', "*", "~", "\\", "{}", "🙂", "--", "%", "zeb"]
)
def test_a_question_that_nothing_answers_or_that_is_none_finds_nothing(talked: dict[str, Store], query: str) -> None:
    for store in talked.values():
        assert store.search(query, conversation="chat") == []


@pytest.mark.parametrize(
    "query",
    [
        "zebra NOT zebra",
        "(zebra OR",
        '"zebra',
        "zebra*",
        "NEAR(zebra)",
        "zebra & | ! <->",
        "zebra~2",
        "t:zebra",
        "zebra\0",
        "zebra " * 3000,
    ],
)
def test_a_question_is_words_and_no_language_of_the_database(talked: dict[str, Store], query: str) -> None:
    for store in talked.values():
        assert store.search(query, conversation="chat")[0].turn.seq == 16


def test_hits_come_best_first_and_no_more_than_asked_for(talked: dict[str, Store]) -> None:
    hits = talked["new"].search("zebra order photo", conversation="chat", limit=3)

    assert len(hits) == 3
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert talked["new"].search("zebra", conversation="chat", limit=0) == []


def test_a_search_finds_what_was_appended_a_moment_ago_and_long_ago(store: Store) -> None:
    for n in range(0, 700, 50):
        store.append("chat", [says(f"batch {n} has ticket T{n:05}"), *chat(49, "filler")])
        for old in range(0, n + 1, 50):
            assert seqs(store.search(f"T{old:05}", conversation="chat"))[0] == old + 1


def seqs(hits: list[Hit]) -> list[int]:
    return [hit.turn.seq for hit in hits]


def found(hits: list[Hit], word: str) -> list[tuple[str, int]]:
    """Those that have the word, without their neighbours."""
    return sorted((hit.conversation, hit.turn.seq) for hit in hits if word in str(hit.turn.message))


def test_a_search_in_a_conversation_finds_nothing_of_another(store: Store) -> None:
    store.append("a", [says("the parrot is green")])
    store.append("b", [says("the parrot is blue")])

    assert found(store.search("parrot", conversation="a"), "parrot") == [("a", 1)]


def test_a_search_of_everything_or_of_a_user_finds_their_turns_only(subject: Subject, store: Store) -> None:
    needs_wide_search(subject)
    for name, user in (("a", "ann"), ("b", "ben"), ("c", "ann"), ("d", None)):
        store.append(name, [says("hello"), says(f"the parrot of {name}")], user=user)

    assert found(store.search("parrot"), "parrot") == [("a", 2), ("b", 2), ("c", 2), ("d", 2)]
    assert found(store.search("parrot", user="ann"), "parrot") == [("a", 2), ("c", 2)]
    assert store.search("parrot", user="nobody") == []
    assert found(store.search("parrot", user="ann", conversation="a"), "parrot") == [("a", 2)]


def test_a_search_of_many_conversations_finds_the_one(subject: Subject, store: Store) -> None:
    needs_wide_search(subject)
    for n in range(60):
        store.append(f"chat-{n}", [says(f"this is about ticket T{n:04}"), says("all right")], user=f"user-{n % 2}")
    for _ in range(2):
        for n in (0, 31, 59):
            hit = store.search(f"T{n:04}")[0]
            assert (hit.conversation, hit.turn.seq) == (f"chat-{n}", 1)
        store.tidy()
    assert store.search("T0031", user="user-1")[0].conversation == "chat-31"
    assert found(store.search("T0031", user="user-0"), "T0031") == []


def test_a_search_as_of_a_turn_finds_nothing_later(store: Store) -> None:
    store.append("chat", [says("a red kite"), *chat(200), says("another red kite")])
    store.tidy()

    assert found(store.search("kite", conversation="chat", last=100), "kite") == [("chat", 1)]
    assert found(store.search("kite", conversation="chat"), "kite") == [("chat", 1), ("chat", 202)]
    assert store.search("kite", conversation="chat", last=0) == []


def test_a_search_on_a_branch_sees_what_the_branch_sees(store: Store) -> None:
    store.append("chat", [says("a red kite"), says("old: an owl")])
    store.append("chat", [says("a red kite"), says("new: an owl")], after=0, fork=True)

    on_new = store.search("kite owl", conversation="chat")
    on_old = store.search("kite owl", conversation="chat", branch=0)

    assert {(hit.turn.seq, hit.turn.branch) for hit in on_new} == {(1, 0), (2, 1)}
    assert {(hit.turn.seq, hit.turn.branch) for hit in on_old} == {(1, 0), (2, 0)}


def test_a_turn_shared_by_branches_is_one_hit_of_a_search_of_everything(subject: Subject, store: Store) -> None:
    needs_wide_search(subject)
    store.append("chat", [says("a red kite"), says("old")])
    store.append("chat", [says("a red kite"), says("new")], after=0, fork=True)

    assert found(store.search("kite"), "kite") == [("chat", 1)]


def test_a_hit_is_the_turn_as_history_gives_it(store: Store) -> None:
    said = says("the parrot", name="Ann", id="m-1", metadata={"a": 1})
    store.append("chat", [said])

    [hit] = store.search("parrot", conversation="chat")

    assert hit.turn == store.history("chat")[0] == Turn(1, said, hit.turn.at, 0)


def test_two_handles_find_what_either_appends(subject: Subject, place: str) -> None:
    with subject.open(place) as one, subject.open(place) as other:
        one.append("chat", [says("a green parrot"), *chat(300)])
        assert seqs(other.search("parrot", conversation="chat"))[0] == 1
        other.append("chat", [says("a blue kite")])
        assert seqs(one.search("kite", conversation="chat"))[0] == 302
        one.tidy()
        assert seqs(other.search("kite", conversation="chat"))[0] == 302
        assert seqs(other.search("parrot", conversation="chat"))[0] == 1


def test_a_search_of_an_empty_store_finds_nothing(subject: Subject, store: Store) -> None:
    store.append("chat", [])
    assert store.search("anything", conversation="chat") == []
    needs_wide_search(subject)
    assert store.search("anything") == []
