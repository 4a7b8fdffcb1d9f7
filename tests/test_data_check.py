"""`tomtat data check`: each finding stands for something that was put into the data."""

import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import rows, write_jsonl
from tomtat.checking import Split, check_data, name_splits
from tomtat.checking.abstractive import copying
from tomtat.checking.duplicates import DuplicateFinder
from tomtat.checking.measure import Measured
from tomtat.checking.report import Cut, Report
from tomtat.checking.suggest import as_toml, sizes, slices
from tomtat.checking.suspicions import look, suspicions
from tomtat.config import RunConfig, build_config
from tomtat.errors import ConfigError, DataError
from tomtat.text import words
from tomtat.text.runs import RunIndex, hashed
from tomtat.types import Example, Message

WORDS = [f"w{number}" for number in range(3000)]


def text(count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def check(*sources: str | Path) -> Report:
    return check_data(name_splits([str(source) for source in sources]).splits, RunConfig(), None)


def row(source: str, summary: str = "They meet on monday at nine.", **more: Any) -> dict[str, Any]:
    return {"dialogue": source, "summary": summary, **more}


# Runs of words, duplicates, overlaps


def test_a_text_is_found_in_another_whole_or_by_the_share_of_its_runs():
    index = RunIndex()
    whole, half, other = text(100, 0), text(107, 1), text(60, 2)
    for one in (whole, half, other):
        index.add(hashed(one))
    search = index.search()

    search.look_at(hashed([*whole]), 7)
    search.look_at(hashed([*text(50, 3), *half[:57]]), 8)

    assert search.exact == {0: 7}
    assert search.shares().tolist() == [1.0, 0.5, 0.0]
    assert search.near() == [1]


def test_a_sample_of_runs_tells_the_share_of_a_long_text():
    index = RunIndex(most_runs=256)
    long = text(4007, 0)
    index.add(hashed(long))
    search = index.search()

    search.look_at(hashed(long[:1207]), 0)  # 1,200 of 4,000 runs

    assert abs(search.shares()[0] - 0.3) < 0.1


def test_near_duplicates_are_those_that_share_half_their_runs():
    """The sketch agrees with the runs themselves, away from the border."""
    finder = DuplicateFinder()
    for seed in range(40):
        base = text(150, seed)
        finder.add(hashed(base), hashed(["a", str(seed)]))
        changed = [*base]
        for place in random.Random(seed).sample(range(150), 1 + seed % 2 * 24):
            changed[place] = "other"
        finder.add(hashed(changed), hashed(["b"]))

    found = finder.find()

    assert (found.exact, found.near) == (0, 20)
    assert {cluster.rows for cluster in found.clusters} == {(n, n + 1) for n in range(0, 80, 4)}


def test_equal_texts_are_one_group_and_other_summaries_are_counted():
    finder = DuplicateFinder()
    for source, summary in [("A b, c!", "x"), ("d e f", "x"), ("a B c", "x"), ("a b c.", "y")]:
        finder.add(hashed(words(source)), hashed(words(summary)))

    found = finder.find()

    assert (found.exact, found.conflicting, found.near) == (2, 1, 0)
    assert [cluster.rows for cluster in found.clusters] == [(0, 2, 3)]


def test_rows_of_one_template_are_one_group_however_many():
    finder = DuplicateFinder()
    for number in range(60):
        finder.add(hashed([*text(40, 0), f"number{number}", *text(40, 1)]), hashed(["s"]))

    [cluster] = finder.find().clusters

    assert cluster.rows == tuple(range(60))


def test_a_sentence_that_all_rows_share_makes_no_duplicates():
    finder = DuplicateFinder()
    for seed in range(200):
        finder.add(hashed([*text(12, 999), *text(80, seed)]), hashed([str(seed)]))

    assert finder.find().superfluous == 0


def test_rows_of_one_split_in_another_are_told_with_their_places(tmp_path: Path):
    train = [row(" ".join(text(60, n)), id=n) for n in range(30)]
    leaked = {**train[4], "id": "leak", "dialogue": train[4]["dialogue"].upper() + " !"}
    near = row(" ".join([*text(60, 9)[:50], "one", "two"]), id="near")
    clean = row(" ".join(text(60, 77)), id="clean")
    files = [
        write_jsonl(tmp_path / "train.jsonl", train),
        write_jsonl(tmp_path / "test.jsonl", [clean, near, leaked]),
    ]

    report = check(*files)

    [overlap] = report.as_dict()["overlaps"]
    assert (overlap["rows_of"], overlap["in"]) == ("test", "train")
    assert overlap["exact_rows"] == [["line 3", "line 5"]]
    assert overlap["near_rows"] == ["line 2"]
    assert any("Rows of test that stand in train too: 2 of 3" in problem for problem in report.verdict.problems)


# What a row is


@pytest.mark.parametrize(
    ("source", "summary", "kind", "what"),
    [
        ("They meet at the old bridge tonight", "...", "no words", "summary"),
        ("Short text here", "This one is longer than what it sums up", "not shorter", "9 words of 3"),
        ("the cat sat on the mat and then it went away", "The cat sat on the mat.", "beginning", "6 words"),
        ("We need 40 chairs for the hall, said the man", "They need 50 chairs.", "number", "50"),
        ("The man said that he would call again on the day after", "The man told Nina to call.", "name", "Nina"),
        ("The man said that he would call again on the day after", "Врач сказал принимать таблетки и отдыхать", "language", "en / ru"),
        ("A: one and two\nA: three and four\nA: five and six", "Counting.", "one speaker", "3 turns"),
    ],
)  # fmt: skip
def test_odd_rows_are_told_with_what_is_odd(source: str, summary: str, kind: str, what: str):
    found = dict(suspicions(look(source, source, words(source), summary, words(summary))))

    assert found.get(kind) == what


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ("Anna: can we meet at three?\nBen: on Friday, yes.\nAnna: fine with me, see you.", "Anna and Ben meet on Friday at 3."),
        ("Người đàn ông chạy ôtô trên đường Võ Trường Toản hướng về cầu Sài Gòn thì gặp nạn", "Một người đàn ông gặp nạn ở đường Võ Trường Toản"),
        ("The team of the new iPhone met in the large hall to talk about its price of 900 dollars", "Meeting on the price of the iPhone."),
    ],
)  # fmt: skip
def test_usual_rows_are_not_odd(source: str, summary: str):
    assert list(suspicions(look(source, source, words(source), summary, words(summary)))) == []


def test_one_summary_for_three_sources_is_odd_and_for_repeats_of_one_source_is_not():
    measured = Measured("train", None)
    formula = "The patient has no pain at all today."
    for n in range(3):
        measured.add(
            Example(n, f"Question number {n} about pain, asked by the doctor in the room", (formula,)), f"line {n}"
        )
        measured.add(Example(-n, "Always this same source about a walk", ("They take a walk in the park.",)), "line")

    measured.finish()

    assert [one.row for one in measured.kinds()["repeated"]] == [0, 2, 4]


def test_conversations_of_messages_have_turns():
    measured = Measured("train", None)
    turns = tuple(Message("user", f"number {n} of my thoughts") for n in range(4))
    measured.add(Example(0, turns, ("Thoughts.",)), "line 1")

    assert list(measured.turns) == [4]
    assert [one.kind for one in measured.suspicions] == ["one speaker"]


def test_coverage_density_and_novelty_are_those_of_the_newsroom_paper():
    found = copying("a b c d e f g h".split(), "a b c x g h".split())

    assert found.coverage == pytest.approx(5 / 6)  # fragments: a b c, and g h
    assert found.density == pytest.approx((9 + 4) / 6)
    assert found.novel == pytest.approx((1 / 6, 2 / 5, 3 / 4, 1))
    assert found.compression == pytest.approx(8 / 6)


def test_a_limit_cuts_rows_and_tokens():
    assert Cut.of([4, 10, 16], 10) == Cut(10, 1, 1 / 3, 6 / 30)


# Settings


def test_what_is_suggested_can_be_pasted_into_a_recipe(tmp_path: Path, tiny_llama: Path):
    from tomtat.models.tokenizer_only import open_tokenizer

    files = [write_jsonl(tmp_path / f"{name}.jsonl", rows(12)) for name in ("train", "dev")]
    settings = RunConfig.model_validate({"model": {"name": str(tiny_llama)}})
    model = open_tokenizer(settings.model, settings.prompt, fetch=False)

    report = check_data(name_splits([str(file) for file in files]).splits, settings, model)
    pasted = build_config(tomllib.loads(as_toml(report.suggestions)))

    assert (pasted.data.train, pasted.data.validation) == (str(files[0]), str(files[1]))
    assert pasted.data.max_source_tokens == 128
    assert pasted.generate.max_new_tokens is not None
    assert {"source tokens", "summary tokens"} <= set(report.split("train").lengths)


@pytest.mark.parametrize("count", [1, 9, 10, 37, 999, 100_000])
def test_slices_take_each_row_once(count: int):
    from tomtat.data.slices import parse_spec

    taken = [number for _, spec, _ in slices("a.jsonl", count) for number in parse_spec(spec).rows(count, spec)]

    assert sorted(taken) == list(range(count))
    assert sum(sizes(count)) <= 0.4 * count


def test_sources_are_named_by_label_split_or_file(tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[data]\ntrain = "a.jsonl[9:]"\ntest = "a.jsonl[:9]"\nmax_source_tokens = 99\n')

    named = name_splits(["gold=/x/whatever.jsonl", "/train/dev_2.jsonl", "chats@test"])
    from_recipe = name_splits([str(recipe)])

    assert [split.label for split in named.splits] == ["gold", "validation", "test"]
    assert from_recipe.splits == [Split("train", "a.jsonl[9:]"), Split("test", "a.jsonl[:9]")]
    assert from_recipe.config is not None
    assert from_recipe.config.data.max_source_tokens == 99
    with pytest.raises(DataError, match="given twice"):
        name_splits(["a.jsonl", "a.jsonl"])


# The command


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    good = [json.dumps(one) for one in rows(40)]
    bad = ['{"dialogue": "cut', "[1]", '{"id": "row-3", "dialogue": "a", "summary": "b"}', '{"dialogue": "no summary"}']
    lines = [*good[:20], *bad, *good[20:]]
    path = tmp_path / "train.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"dialogue": "\xff", "summary": "x"}\n')
    return path


def test_all_bad_rows_are_listed_and_the_check_ends_with_2(tomtat: Callable[..., Any], damaged: Path, tmp_path: Path):
    out = tmp_path / "checked"
    result = tomtat("data", "check", damaged, "--show", 1, "--out", out)

    assert result.code == 2
    assert "train.jsonl, line 21: not valid JSON" in result.out
    assert "and 1 more" in result.out
    assert "5 rows can't be used" in result.err
    assert "Not ready to train on" in result.out
    written = [json.loads(line) for line in (out / "bad_rows.jsonl").read_text().splitlines()]
    assert [int(one["where"].rpartition(" ")[2]) for one in written] == [21, 22, 23, 24, 45]
    report = json.loads((out / "report.json").read_text())
    assert report["splits"]["train"]["rows"] == 40
    assert (out / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.suffix for path in out.iterdir()) == [".json", *[".jsonl"] * 4, ".png"]


def test_json_is_all_that_is_printed(tomtat: Callable[..., Any], data: Path, tiny_t5: Path):
    result = tomtat("data", "check", data, "--json", "--model", tiny_t5, "--set", "data.max_source_tokens=20")

    found = json.loads(result.out)
    assert result.code == 0
    assert found["splits"]["data.jsonl"]["source_cut"]["limit"] == 20
    assert found["splits"]["data.jsonl"]["source_cut"]["rows"] > 0


def test_a_run_is_checked_with_its_own_limits(tomtat: Callable[..., Any], tmp_path: Path, data: Path, tiny_t5: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(
        f'[model]\nname = "{tiny_t5}"\n[data]\ntrain = "{data}[2:]"\nvalidation = "{data}[:2]"\nmax_source_tokens = 33\n'
    )

    found = json.loads(tomtat("data", "check", run, "--json").out)

    assert list(found["splits"]) == ["train", "validation"]
    assert found["splits"]["train"]["source_cut"]["limit"] == 33
    assert found["model"] == str(tiny_t5)


def test_without_the_model_words_are_counted_and_nothing_is_fetched(
    tomtat: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    result = tomtat("data", "check", data, "--plot", tmp_path / "lengths.svg")

    assert result.code == 0
    assert "words are counted and no tokens" in result.err
    assert "tokens" not in result.out
    assert not (tmp_path / "cache").exists()
    assert "<svg" in (tmp_path / "lengths.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plot", "lengths.jpeg"], "end it in .png"),
        (["--plot", "nowhere/lengths.png"], "there is no folder nowhere"),
        (["--out", "data.jsonl"], "is a file"),
        (["--summary-field", "recap"], "no field with the summary"),
        (["--set", "data.max_source_token=4"], "did you mean data.max_source_tokens"),
    ],
)
def test_slips_are_told_in_a_line(
    tomtat: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
):
    monkeypatch.chdir(data.parent)
    result = tomtat("data", "check", "data.jsonl", *arguments)

    assert result.code == 2
    assert told in result.out + result.err


def test_a_stop_leaves_nothing_half_written(
    tomtat: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tomtat.checking.measure.source_text", stop)
    result = tomtat("data", "check", data, "--out", tmp_path / "checked", "--plot", tmp_path / "a.png")

    assert result.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_control_characters_of_the_data_stay_visible(tomtat: Callable[..., Any], tmp_path: Path):
    text = "\x1b[2Jgo away " + " ".join(WORDS[:30])
    path = write_jsonl(tmp_path / "a.jsonl", [row(text, id=n) for n in range(3)])

    result = tomtat("data", "check", path)

    assert "\x1b[2J" not in result.out
    assert "␛[2Jgo away" in result.out


def test_an_unknown_picture_format_is_refused_before_the_work():
    from tomtat.checking.plot import require_plottable

    with pytest.raises(ConfigError):
        require_plottable(Path("a.gif"))


def test_a_tokenizer_that_was_not_made_for_the_language_is_told(tmp_path: Path, tiny_llama: Path):
    from tomtat.models.tokenizer_only import open_tokenizer

    settings = RunConfig.model_validate({"model": {"name": str(tiny_llama)}})
    model = open_tokenizer(settings.model, settings.prompt, fetch=False)
    path = write_jsonl(
        tmp_path / "train.jsonl", [row("Người đàn ông chạy ôtô trên đường hướng về cầu", id=n) for n in range(3)]
    )

    remarks = check_data([Split("train", str(path))], settings, model).verdict.remarks

    assert any("hardly made for this language" in remark for remark in remarks)


def test_standard_input_is_checked_and_columns_are_suggested(
    tomtat: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_jsonl(tmp_path / "a.jsonl", [{"talk": one["dialogue"], "recap": one["summary"]} for one in rows(12)])
    monkeypatch.setattr("sys.stdin", path.open())
    result = tomtat("data", "check", "-", "--source-field", "talk", "--summary-field", "recap", "--json")

    found = json.loads(result.out)
    assert found["splits"]["standard input"]["rows"] == 12
    assert found["suggested"]["data.source_field"] == "talk"
    assert "data.train" not in found["suggested"]


def test_few_rows_alike_are_a_remark_and_few_rows_copied_a_problem(tmp_path: Path):
    train = [row(" ".join(text(40, n)), id=n) for n in range(60)]
    clean = [row(" ".join(text(40, 1000 + n)), id=n) for n in range(49)]
    near = row(" ".join([*text(40, 3)[:34], "a", "few", "others"]), id="near")
    source = write_jsonl(tmp_path / "train.jsonl", train)
    alike = write_jsonl(tmp_path / "alike.jsonl", [*clean, near])
    copied = write_jsonl(tmp_path / "copied.jsonl", [*clean, {**train[3], "id": "copied"}])

    verdicts = {test.stem: check(source, f"test={test}").verdict for test in (alike, copied)}

    assert not verdicts["alike"].problems
    assert any("1 of 50 (2.0 %)" in remark for remark in verdicts["alike"].remarks)
    assert len(verdicts["copied"].problems) == 1
