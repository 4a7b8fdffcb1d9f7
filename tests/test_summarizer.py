"""Long inputs in a tree, limits, and the choice among candidates: with a fake engine that says what it read."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tomtat import Message, Summarizer
from tomtat.config import GenerateSettings, load_config
from tomtat.errors import ConfigError
from tomtat.models import Decoding, Encoded, Limits
from tomtat.models.decoding import decoding_of
from tomtat.progress import Progress
from tomtat.ranking import best, likeness, score
from tomtat.summarizer import held_to
from tomtat.text.limits import at_most_words, first_sentences, whole_sentences
from tomtat.text.pieces import pieces
from tomtat.types import Generation


class WordModel:
    """Words are tokens."""

    def encode(self, text: str, summary: str | None, limit: int) -> Encoded:
        assert len(text.split()) <= limit, "nothing may be cut unsaid"
        return Encoded(list(range(len(text.split()))), [])

    def cut(self, text: str, limit: int) -> tuple[str, float]:
        count = len(text.split())
        return (text, 1.0) if count <= limit else (" ".join(text.split()[:limit]), limit / count)


class FirstWordEngine:
    """Says the first words of what it reads, and remembers what that was."""

    name = "fake"

    def __init__(self, words: int = 2) -> None:
        self.model: Any = WordModel()
        self.words = words
        self.read: list[list[str]] = []
        self.model.encode = self._encode

    def _encode(self, text: str, summary: str | None, limit: int) -> Encoded:
        self._last = text
        row = WordModel().encode(text, summary, limit)
        return TextRow(row.prompt_ids, [], text=text)

    def candidates(
        self, rows: Sequence[Any], decoding: Decoding, progress: Progress | None = None, name: str = ""
    ) -> list[list[Generation]]:
        self.read.append([row.text for row in rows])
        return [
            [
                Generation(" ".join(row.text.split()[copy : copy + self.words]) + ".", len(row.prompt_ids), 3, "stop")
                for copy in range(decoding.candidates)
            ]
            for row in rows
        ]

    def stream(self, row: Any, decoding: Decoding) -> Iterator[str | Generation]:
        [[generation]] = self.candidates([row], decoding)
        yield from (generation.text[:3], generation.text[3:], generation)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class TextRow(Encoded):
    def __init__(self, prompt_ids: list[int], target_ids: list[int], text: str) -> None:
        super().__init__(prompt_ids, target_ids)
        object.__setattr__(self, "text", text)


def chat(turns: int) -> tuple[Message, ...]:
    return tuple(Message("user" if n % 2 else "assistant", f"turn {n} has seven words here.") for n in range(turns))


def test_a_long_chat_is_read_whole_once_and_climbed_until_it_fits():
    engine = FirstWordEngine()
    summarizer = Summarizer(engine, Decoding(10), max_source_tokens=20)
    source = chat(60)
    [summary] = summarizer.generate([source])

    leaves = engine.read[0]
    words = [word for leaf in leaves for word in leaf.split()]
    assert words == [
        w for n in range(60) for w in f"{'User' if n % 2 else 'Assistant'}: turn {n} has seven words here.".split()
    ]
    assert all(leaf.startswith(("User:", "Assistant:")) for leaf in leaves), "cut between turns"
    assert max(len(leaf.split()) for leaf in leaves) <= 20
    assert len(engine.read) >= 3, "more than one level"
    assert summary.pieces == len(leaves)
    assert summary.share_read == 1.0
    assert summary.prompt_tokens == sum(len(text.split()) for level in engine.read for text in level)


def test_short_and_long_sources_keep_their_order():
    summarizer = Summarizer(FirstWordEngine(), Decoding(10), max_source_tokens=20)
    found = summarizer.generate(["one alone", "\n".join(f"line {n} of words" for n in range(30)), "two alone"])
    assert [s.text for s in found] == ["one alone.", "line 0..", "two alone."]
    assert [s.pieces > 1 for s in found] == [False, True, False]


def test_truncate_reads_the_beginning_and_says_how_much():
    engine = FirstWordEngine()
    summarizer = Summarizer(engine, Decoding(10), 20, long_inputs="truncate")
    [summary] = summarizer.generate([" ".join(map(str, range(80)))])
    assert engine.read == [[" ".join(map(str, range(20)))]]
    assert (summary.pieces, summary.share_read) == (1, 0.25)


@pytest.mark.parametrize("long_inputs", ["truncate", "tree"])
def test_what_is_drawn_says_how_much_was_read_as_the_first_summary_does(long_inputs: str):
    summarizer = Summarizer(FirstWordEngine(), Decoding(10), 20, long_inputs=long_inputs)
    source = " ".join(map(str, range(80)))
    [first] = summarizer.generate([source])

    [drawn] = summarizer.draw([source], 3)
    [told, *_] = drive(summarizer.drawing(source, 3), summarizer.engine)

    for one in (*drawn, told):
        assert (one.share_read, one.pieces) == (first.share_read, first.pieces)
    assert (first.share_read < 1) == (long_inputs == "truncate")
    assert len(drawn) == 3


def drive(way: Any, engine: Any) -> list[Any]:
    """What a way of telling comes to, with an engine that answers it."""
    asked = next(way)
    while True:
        try:
            asked = way.send(engine.candidates(asked.rows, asked.decoding))
        except StopIteration as end:
            return end.value


def test_a_model_that_says_nothing_of_the_pieces_still_ends():
    engine = FirstWordEngine()
    engine.candidates = lambda rows, decoding, *rest: [[Generation("", 1, 1, "stop")] for _ in rows]  # type: ignore[method-assign]
    [summary] = Summarizer(engine, Decoding(10), 20).generate([" ".join(map(str, range(80)))])
    assert summary.text == ""


def test_a_stream_of_a_long_source_ends_with_its_top():
    engine = FirstWordEngine()
    summarizer = Summarizer(engine, Decoding(10), 20)
    source = chat(20)
    assert "".join(summarizer.stream(source)) == summarizer(source)
    assert len(list(summarizer.stream("a b"))) == 2
    summarizer.ask_for({"max_words": 1})
    assert list(summarizer.stream("a b c")) == ["a"]


@pytest.mark.parametrize("seed", range(8))
def test_pieces_are_the_text_and_fit(seed: int):
    generator = random.Random(seed)
    parts = [
        "word",
        "a-much-longer-word",
        "đường",
        "会议改到周五下午",
        ". ",
        "! ",
        "\n",
        "\n\n",
        " ",
        "  ",
        "1,000.50",
        "🙂",
        "\t",
    ]
    text = "".join(generator.choice(parts) for _ in range(400))
    counts: list[Callable[[str], int]] = [lambda t: len(t.split()), len, lambda t: len(t.encode())]
    for count in counts:
        for limit in (4, 7, 50):
            found = pieces(text, count, limit)
            assert "".join(found) == text
            assert all(count(piece) <= limit for piece in found)
            assert all(found)


def test_pieces_are_alike_and_end_where_turns_end():
    text = "\n".join(f"User: this is turn {n}" for n in range(21))
    found = pieces(text, lambda t: len(t.split()), 50)
    assert [len(piece.split()) for piece in found] == [35, 35, 35]
    assert all(piece.startswith("User:") for piece in found)
    assert pieces("short", len, 10) == ["short"]
    with pytest.raises(ValueError, match="leaves nothing"):
        pieces("text", len, 0)


def test_sentences_are_kept_together():
    text = "First one here. Second one is here! Is the third? It is the fourth."
    assert pieces(text, lambda t: len(t.split()), 7) == [
        "First one here. Second one is here! ",
        "Is the third? It is the fourth.",
    ]


# Limits


def test_limits_cut_at_sentences():
    text = "One two three. Four five. Six seven eight nine."
    assert at_most_words(text, 6) == "One two three. Four five."
    assert at_most_words(text, 5) == "One two three. Four five."
    assert at_most_words(text, 2) == "One two"
    assert at_most_words(text, 100) == text
    assert first_sentences(text, 2) == "One two three. Four five."
    assert whole_sentences("One two three. Four fi") == "One two three."
    assert whole_sentences("One two thr") == "One two thr"


def test_only_a_summary_that_was_cut_loses_its_last_sentence():
    limits = Limits(whole_sentences=True)
    text = "One two. Three fo"
    assert held_to(limits, Generation(text, 1, 9, "length")) == "One two."
    assert held_to(limits, Generation(text, 1, 9, "stop")) == text
    assert held_to(Limits(max_sentences=1, max_words=1), Generation(text, 1, 9, "stop")) == "One"


# Choosing among candidates


def test_the_summary_most_like_the_others_is_given():
    texts = ["the cat sat on a mat", "the cat sat on the mat", "the cat sat on the red mat", "dogs bark"]
    assert best(texts, " ".join(texts)) in (1, 2)
    assert score(texts, "", details_weight=0)[3] == 0.0
    assert likeness("a b c", "a b c") == 1.0
    assert likeness("a b", "a c") == pytest.approx((0.5 + 0) / 2)
    assert likeness("", "") == 0.0


def test_a_summary_with_the_sources_numbers_and_names_goes_first():
    source = "Anna pays 30 dollars to Bob on Friday."
    good, bad = "Anna pays Bob 30 dollars on Friday.", "Anna pays Carl 40 dollars on Monday."
    assert best([bad, good], source) == 1
    assert best([good, bad], source) == 0


def test_empty_ones_and_another_language_are_taken_last():
    assert best(["", "a b", ""], "a b") == 1
    assert best(["", ""], "a") == 0
    assert best(["", "a b"], "a b", language="vi") == 1, "none is in that language, and one says something"
    vietnamese = "Cuộc họp được dời sang thứ sáu."
    assert best(["the meeting moved", "the meeting moved", vietnamese], "x", language="vi") == 2


def test_mbr_in_the_summarizer_counts_what_all_candidates_cost():
    summarizer = Summarizer(FirstWordEngine(3), Decoding(10, temperature=1.0, candidates=4), 50)
    [summary] = summarizer.generate(["a b c d e f g"])
    assert summary.text in ("b c d.", "c d e.")
    assert summary.new_tokens == 12


# What can be asked for


def test_settings_become_decodings():
    assert decoding_of(GenerateSettings(), 30).method == "greedy"
    assert decoding_of(GenerateSettings(decode="beam"), 30).num_beams == 4
    assert decoding_of(GenerateSettings(num_beams=2), 30) == Decoding(30, num_beams=2)
    mbr = decoding_of(GenerateSettings(decode="mbr", max_new_tokens=7), 30, seed=5)
    assert (mbr.method, mbr.candidates, mbr.max_new_tokens, mbr.seed) == ("mbr", 8, 7, 5)
    assert decoding_of(GenerateSettings(decode="sample"), 30).method == "sample"


def test_what_is_asked_for_overrides_only_that():
    summarizer = Summarizer(FirstWordEngine(), Decoding(10, no_repeat_ngram=3, seed=2), 50)
    summarizer.ask_for({"candidates": 5, "max_words": 9, "long_inputs": "truncate"})
    assert summarizer.decoding == replace(
        Decoding(10, no_repeat_ngram=3, seed=2), candidates=5, temperature=0.7, top_p=0.95
    )
    assert summarizer.limits == Limits(max_words=9)
    assert summarizer.long_inputs == "truncate"
    summarizer.ask_for({"decode": "greedy", "max_new_tokens": 4})
    assert summarizer.decoding == Decoding(4, no_repeat_ngram=3, seed=2)
    with pytest.raises(ConfigError, match=r"generate.max_word is not a setting; did you mean generate.max_words"):
        summarizer.ask_for({"max_word": 3})


def test_what_is_not_given_stays_as_the_model_has_it():
    drawn = Decoding(10, temperature=0.3, top_p=0.8, candidates=5)
    for asked, expected in (
        ({"top_p": 0.5}, replace(drawn, top_p=0.5)),
        ({"language": "vi"}, drawn),
        ({"candidates": 3, "temperature": 1.0}, replace(drawn, candidates=3, temperature=1.0)),
        ({"decode": "sample"}, Decoding(10, temperature=0.7, top_p=0.95)),
        ({"decode": "greedy"}, Decoding(10)),
    ):
        summarizer = Summarizer(FirstWordEngine(), drawn, 50)
        summarizer.ask_for(asked)
        assert summarizer.decoding == expected, asked
    of_beams = Summarizer(FirstWordEngine(), Decoding(10, num_beams=6), 50)
    of_beams.ask_for({"decode": "beam"})
    assert of_beams.decoding.num_beams == 6
    of_beams.ask_for({"num_beams": 1})
    assert of_beams.decoding.method == "greedy"


def test_a_language_draws_candidates_by_itself():
    summarizer = Summarizer(FirstWordEngine(), Decoding(10), 50)
    summarizer.ask_for({"language": "vi"})
    assert (summarizer.decoding.method, summarizer.limits.language) == ("mbr", "vi")
    assert decoding_of(GenerateSettings(language="vi"), 10).method == "mbr", "in a recipe too"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"temperature": 0.5}, "temperature changes nothing with decode 'greedy'"),
        ({"decode": "greedy", "temperature": 0.5, "top_p": 0.5}, "temperature and top_p change nothing with"),
        ({"num_beams": 4, "top_p": 0.9}, "top_p changes nothing with decode 'beam'"),
        ({"decode": "greedy", "candidates": 4}, "candidates: several are drawn, and decode 'greedy' writes one"),
        ({"decode": "sample", "language": "vi"}, "language: it is looked for among several"),
        ({"language": "fr"}, "language 'fr': summaries are told apart by their letters only"),
    ],
)
def test_what_would_change_nothing_is_refused(asked: dict[str, Any], message: str):
    summarizer = Summarizer(FirstWordEngine(), Decoding(10), 50)
    with pytest.raises(ConfigError, match=message):
        summarizer.ask_for(asked)
    assert summarizer.decoding == Decoding(10)


def test_a_runs_settings_hold_values_without_use_and_are_read_again(tmp_path: Path):
    path = tmp_path / "config.toml"
    path.write_text(load_config(None, {"generate.decode": "mbr", "generate.temperature": 0.3}).to_toml())
    config = load_config(path, {"generate.decode": "greedy"})
    assert (config.generate.temperature, config.generate.way) == (0.3, "greedy")
    with pytest.raises(ConfigError, match="temperature changes nothing"):
        load_config(path, {"generate.decode": "greedy", "generate.temperature": 0.5})


def test_beams_with_another_way_are_refused():
    with pytest.raises(ConfigError, match="num_beams is for"):
        load_config(None, {"generate.num_beams": 4, "generate.decode": "mbr"})


def test_the_command_line_takes_limits(tomtat: Callable[..., Any], tiny_llama: Path, tmp_path: Path):
    text = tmp_path / "a.txt"
    text.write_text("one two three. " * 400)
    result = tomtat("summarize", tiny_llama, text, "--max-new-tokens", 4, "--device", "cpu")
    assert result.code == 0, result.err
    assert "read whole, in" in result.err
    result = tomtat("summarize", tiny_llama, text, "--max-new-tokens", 4, "--truncate", "--device", "cpu")
    assert "only its first" in result.err
    text.write_text("one two three.")
    result = tomtat("summarize", tiny_llama, text, "--language", "vi", "--max-new-tokens", 4, "--device", "cpu")
    assert (result.code, "None of 8 candidates was in the language vi" in result.err) == (0, True), result.err
    result = tomtat("summarize", tiny_llama, text, "--decode", "best")
    assert result.code == 2
    assert "generate.decode" in result.err
