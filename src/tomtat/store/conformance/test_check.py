"""What bytes that changed on disk do: they are found, set aside, and take nothing else with them."""

from pathlib import Path

import pytest

from tomtat.store.base import Store
from tomtat.store.conformance.fixtures import chat, contents, messages, says
from tomtat.store.conformance.subject import Damages, DamagesIndex, LooksForRemains, Subject, needs
from tomtat.store.conformance.test_exchange import fill
from tomtat.store.values import Damaged, Finding, Span

PIECE = 128
"""Turns that may be lost with one: what a store compresses together."""


def test_a_sound_store_has_no_findings_and_all_its_turns_are_counted(store: Store) -> None:
    fill(store)
    store.for_tenant("other").append("chat", chat(3))

    health = store.check()

    assert health.is_sound
    assert health.turns == store.stats().turns + 3
    assert store.check(repair=True).is_sound
    assert store.stats().damaged == 0


def test_checking_changes_nothing(subject: Subject, place: str) -> None:
    damage = needs(subject, Damages).damage
    with subject.open(place) as store:
        store.append("chat", chat(10))
        damage(place, "chat", 5)
        first = store.check()

        assert not first.is_sound
        assert store.check() == first
        assert store.stats().damaged == 0


@pytest.mark.parametrize(
    ("count", "seq"), [(10, 1), (10, 5), (10, 10), (400, 1), (400, 100), (400, 200), (400, 399), (400, 400)]
)
def test_a_damaged_turn_is_found_set_aside_and_the_rest_is_read_again(
    subject: Subject, place: str, count: int, seq: int
) -> None:
    damage = needs(subject, Damages).damage
    with subject.open(place) as store:
        for name in ("chat", "other"):
            store.append(name, chat(count))
            store.attach(name, Span(1, 10), "summary", "ten")
        store.tidy()
    damage(place, "chat", seq)

    with subject.open(place) as store:
        found = store.check()
        repaired = store.check(repair=True)

        assert [where(finding) for finding in found.findings] == [where(finding) for finding in repaired.findings]
        first, last = lost(repaired.findings, seq)
        assert all(finding.repaired for finding in repaired.findings)
        expected = [message for n, message in enumerate(chat(count), start=1) if not first <= n <= last]
        assert messages(store.history("chat")) == expected
        assert [turn.seq for turn in store.history("chat")] == [
            n for n in range(1, count + 1) if not first <= n <= last
        ]
        assert messages(store.history("other")) == chat(count)
        assert [one.value for one in store.derived("chat")] == ["ten"]
        assert store.check().is_sound
        assert store.stats().damaged > 0


def where(finding: Finding) -> tuple[str | None, int | None, int | None, int | None]:
    return finding.conversation, finding.branch, finding.first, finding.last


def lost(findings: tuple[Finding, ...], seq: int) -> tuple[int, int]:
    """The range of turns that the findings say is damaged: around this turn, and small."""
    spans = [(finding.first, finding.last) for finding in findings if finding.conversation is not None]
    assert {finding.conversation for finding in findings} <= {"chat", None}
    assert spans
    first, last = min(first or 0 for first, _ in spans), max(last or 0 for _, last in spans)
    assert first <= seq <= last < first + PIECE
    return first, last


def test_what_cannot_be_read_is_told_and_what_lies_elsewhere_is_read(subject: Subject, place: str) -> None:
    damage = needs(subject, Damages).damage
    with subject.open(place) as store:
        store.append("chat", chat(600))
        store.tidy()
    damage(place, "chat", 300)

    with subject.open(place) as store:
        with pytest.raises(Damaged, match="chat"):
            store.history("chat")
        assert messages(store.history("chat", first=600 - PIECE, last=600)) == chat(600)[599 - PIECE :]
        assert messages(store.history("chat", last=300 - PIECE)) == chat(600)[: 300 - PIECE]
        assert store.append("chat", [says("and on")]).last == 601
        assert contents(store.history("chat", newest=1)) == ["and on"]


def test_a_repaired_conversation_goes_on_and_is_searched_exported_resent_and_compressed(
    subject: Subject, place: str, tmp_path: Path
) -> None:
    damage = needs(subject, Damages).damage
    with subject.open(place) as store:
        store.append("chat", [says("a red kite"), *chat(299)])
        store.tidy()
        damage(place, "chat", 150)
        damage(place, "chat", 299)
    with subject.open(place) as store:
        store.check(repair=True)
        left = messages(store.history("chat"))
        done = store.append("chat", [says("a green parrot"), *chat(300, "later")])

        assert (done.first, done.new) == (301, 301), "no place is given twice"
        assert store.search("kite", conversation="chat")[0].turn.seq == 1
        assert store.search("parrot", conversation="chat")[0].turn.seq == 301
        assert (
            store.append(
                "chat", [says("a red kite"), *chat(299), says("a green parrot"), *chat(300, "later")], after=0
            ).new
            == 0
        )
        store.tidy()
        assert messages(store.history("chat")) == [*left, says("a green parrot"), *chat(300, "later")]
        assert store.search("parrot", conversation="chat")[0].turn.seq == 301
        assert store.check().is_sound
        (tmp_path / "other").mkdir()
        with subject.open(subject.new_place(tmp_path / "other")) as other:
            other.import_(store.export())
            assert messages(other.history("chat")) == messages(store.history("chat"))


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("seq", [100, 298])
def test_a_damaged_conversation_can_be_erased_without_a_trace(
    subject: Subject, place: str, seq: int, repair: bool
) -> None:
    damage, remains = needs(subject, Damages).damage, needs(subject, LooksForRemains).remains
    with subject.open(place) as store:
        store.append("kept", chat(30))
        store.append("chat", [says(f"text {n} about q7zx93kw41mv08 and k{n:05}") for n in range(1, 301)])
        store.tidy()
    damage(place, "chat", seq)
    with subject.open(place) as store:
        if repair:
            store.check(repair=True)
        store.erase(conversation="chat")

        assert remains(place, b"q7zx93kw41mv08") == []
        assert remains(place, f"k{seq:05}".encode()) == []
        assert messages(store.history("kept")) == chat(30)
        assert store.check().is_sound
        assert store.stats().damaged == 0


def test_a_damaged_index_does_not_keep_a_conversation_from_being_erased(subject: Subject, place: str) -> None:
    damage_index = needs(subject, DamagesIndex).damage_index
    with subject.open(place) as store:
        store.append("kept", [says("a red kite"), *chat(300)])
        store.append("chat", chat(300, "q7zx93kw41mv08"))
        store.tidy()
    damage_index(place)

    with subject.open(place) as store:
        assert store.erase(conversation="chat").turns == 300
        store.check(repair=True)
        assert store.search("kite", conversation="kept")[0].turn.seq == 1
        assert store.check().is_sound


def test_an_index_that_lost_turns_is_found_and_made_anew(subject: Subject, place: str) -> None:
    damage_index = needs(subject, DamagesIndex).damage_index
    with subject.open(place) as store:
        store.append("chat", [says("a red kite"), *chat(300), says("a green parrot")])
        store.tidy()
    damage_index(place)

    with subject.open(place) as store:
        found = store.check()
        assert [where(finding) for finding in found.findings] == [(None, None, None, None)]
        assert store.check(repair=True).findings[0].repaired

        assert store.search("kite", conversation="chat")[0].turn.seq == 1
        assert store.search("parrot", conversation="chat")[0].turn.seq == 302
        assert store.check().is_sound


def test_things_are_made_from_spans_over_and_after_what_was_set_aside(subject: Subject, place: str) -> None:
    damage = needs(subject, Damages).damage
    with subject.open(place) as store:
        store.append("chat", chat(400))
        store.tidy()
    damage(place, "chat", 100)

    with subject.open(place) as store:
        store.check(repair=True)
        for last in (100, 140, 200, 399):
            store.attach("chat", Span(90, last), "summary", last)

        assert [one.value for one in store.derived("chat")] == [100, 140, 200, 399]
        assert store.check().is_sound
