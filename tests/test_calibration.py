import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tomtat
from conftest import rows, small_settings, write_jsonl
from test_training import StopAfter, adapter, without_times
from tomtat.candidate_file import Candidate, CandidateFile
from tomtat.candidates import Draw, draw_candidates
from tomtat.config import CalibrateSettings, ModelSettings, PromptSettings
from tomtat.data import load_examples
from tomtat.errors import ConfigError, DataError, Interrupted, RunError
from tomtat.models import load_base
from tomtat.models.base import Choices, Encoded, SummarizerModel
from tomtat.progress import Progress
from tomtat.training import calibrate, resume
from tomtat.training.calibration import worth_ranking
from tomtat.training.objectives import RankCandidates, TrainingData, rank_loss

# --- candidates of a row read together


def base(folder: Path) -> SummarizerModel:
    model = load_base(ModelSettings(name=str(folder)), PromptSettings())
    model.network.eval()
    return model


def choices(model: SummarizerModel) -> list[Choices]:
    texts = {
        "can we meet on monday?": ["They meet on monday.", "x", "They meet. Or not. On friday at nine."],
        "a much longer text about room four " * 6: ["room four is painted", ""],
        "b": ["c"],
    }
    return [
        Choices(model.encode(text, None, 500).prompt_ids, [model.target(summary) for summary in summaries])
        for text, summaries in texts.items()
    ]


def log_prob(model: SummarizerModel, prompt: list[int], target: list[int]) -> torch.Tensor:
    return -model.loss_sum([Encoded(prompt, target)])


def test_targets_read_together_are_as_likely_as_each_alone(tiny_model: Path):
    model = base(tiny_model)
    rows = choices(model)
    with torch.no_grad():
        for row, found in zip(rows, model.log_probs(rows), strict=True):
            alone = [float(log_prob(model, row.prompt_ids, target)) for target in row.targets]
            assert found.tolist() == pytest.approx(alone, abs=1e-4)


def test_their_gradients_are_the_same_too(tiny_model: Path):
    model = base(tiny_model)
    rows = choices(model)
    weight = next(p for name, p in model.network.named_parameters() if name.endswith(("q_proj.weight", "q.weight")))
    weight.requires_grad_(True)
    torch.stack([found.sum() for found in model.log_probs(rows)]).sum().backward()
    together, weight.grad = weight.grad, None
    for row in rows:
        for target in row.targets:
            log_prob(model, row.prompt_ids, target).backward()
    torch.testing.assert_close(together, weight.grad, rtol=1e-3, atol=1e-5)


def test_models_that_take_no_mask_of_ours_read_each_target_alone(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch):
    model = base(tiny_llama)
    rows = choices(model)
    with torch.no_grad():
        packed = torch.cat(model.log_probs(rows))
        monkeypatch.setattr(type(model), "has_lanes", False)
        torch.testing.assert_close(torch.cat(model.log_probs(rows)), packed, rtol=1e-4, atol=1e-4)


def test_the_head_makes_logits_only_where_a_target_stands(tiny_model: Path):
    model = base(tiny_model)
    rows = choices(model)
    made: list[torch.Size] = []
    model.network.get_output_embeddings().register_forward_hook(lambda *call: made.append(call[2].shape))
    model.log_probs(rows)
    assert made == [(sum(len(target) for row in rows for target in row.targets), len(model.tokenizer))]


# --- the loss


def test_rank_loss_by_hand():
    # pairs: (1, 2) 0.5 + 0.1, (1, 3) 0.2 + 0.2 less 0.6 is none, (2, 3) none
    assert float(rank_loss(torch.tensor([-1.0, -0.5, -1.8]), 0.1)) == pytest.approx(0.6)
    # in the right order, but by less than the margin: (1, 2) 0.05, (1, 3) 0.1, (2, 3) 0.05
    assert float(rank_loss(torch.tensor([-1.0, -1.05, -1.1]), 0.1)) == pytest.approx(0.2)
    assert float(rank_loss(torch.tensor([-1.0]), 0.1)) == 0.0


def test_a_step_down_the_rank_loss_makes_the_better_candidate_likelier():
    values = torch.tensor([-2.0, -1.0], requires_grad=True)
    rank_loss(values, 0.1).backward()
    assert values.grad.tolist() == [-1.0, 1.0]


def training_data(model: SummarizerModel) -> TrainingData:
    found = choices(model)
    return TrainingData(
        [Encoded(row.prompt_ids, row.targets[0]) for row in found], [], [], [row.targets[1:] for row in found]
    )


def test_the_loss_of_rows_is_length_normalised_ranks_and_a_weighted_reference(tiny_model: Path):
    model = base(tiny_model)
    data = training_data(model)
    settings = CalibrateSettings(margin=0.3, length_penalty=0.6, reference_weight=0.5)
    expected = 0.0
    for row, candidates in zip(data.train, data.candidates, strict=True):
        values = [float(log_prob(model, row.prompt_ids, one)) / len(one) ** 0.6 for one in candidates]
        pairs = [(i, j) for i in range(len(values)) for j in range(i + 1, len(values))]
        expected += sum(max(0.0, values[j] - values[i] + (j - i) * 0.3) for i, j in pairs)
        expected += 0.5 * -float(log_prob(model, row.prompt_ids, row.target_ids)) / len(row.target_ids)
    objective = RankCandidates(model, data, settings)
    assert objective.weight([0, 1, 2]) == 3
    assert float(objective.loss_sum([0, 1, 2])) == pytest.approx(expected, rel=1e-4)
    assert sum(float(objective.loss_sum([row])) for row in (2, 0, 1)) == pytest.approx(expected, rel=1e-4)


def test_of_many_candidates_the_best_the_worst_and_some_between_are_ranked():
    texts = "they meet|nina is ill|room four|on friday|it is painted|no one came".split("|")
    found = [Candidate(text, score) for text, score in zip(texts, [10.0, 60, 30, 50, 20, 40], strict=True)]
    assert [one.score for one in worth_ranking(found, 6)] == [60, 50, 40, 30, 20, 10]
    assert [one.score for one in worth_ranking(found, 3)] == [60, 40, 10]
    again = [Candidate("Nina is ill.", 59.0), Candidate("another of equal score", 30.0)]
    assert worth_ranking([*found, *again], 8) == worth_ranking(found, 8)


# --- candidates on disk


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> tomtat.RunFolder:
    return tomtat.finetune(settings=settings, out=tmp_path / "run")


@pytest.fixture
def llama_run(tiny_llama: Path, data: Path, tmp_path: Path) -> tomtat.RunFolder:
    """For what does not depend on the family."""
    return tomtat.finetune(settings=small_settings(tiny_llama, data), out=tmp_path / "run")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


DRAW = Draw(count=4)


def test_candidates_are_drawn_scored_and_summed_up(run: tomtat.RunFolder):
    room = draw_candidates(run, draw=DRAW)
    header, *found = lines(room.path)

    assert room.path == run.path / "candidates.jsonl"
    assert header["decoding"]["candidates"] == 4
    assert "mean of rouge1, rouge2, rougeL" in header["score"]
    assert sorted(row["id"] for row in found) == sorted(row["id"] for row in rows(12))
    assert all(len(row["candidates"]) == 4 for row in found)
    summarizer = tomtat.Summarizer.load(run)
    sources = {row["id"]: row["dialogue"] for row in rows(12)}
    for row in found:
        assert row["candidates"][0]["text"] == summarizer(sources[row["id"]])
    assert room.oracle >= max(room.greedy, room.mean, room.mbr)
    best = [max(one["score"] for one in row["candidates"]) for row in found]
    assert room.oracle == pytest.approx(sum(best) / len(best))


def test_a_summary_that_the_limit_cut_has_no_end_to_learn(llama_run: tomtat.RunFolder):
    from tomtat.training.finetune import _candidate_ids

    path = draw_candidates(llama_run, draw=DRAW).path  # of at most 8 tokens
    found = [one for _, row in CandidateFile.read(path).rows.values() for one in row]
    cut = next(one for one in found if one.cut)
    model = tomtat.Summarizer.load(llama_run).model
    whole = model.target(cut.text)
    assert whole[-1] in model.end_token_ids()
    assert _candidate_ids(model, cut) == whole[:-1]
    assert _candidate_ids(model, Candidate(cut.text, 1.0)) == whole


def test_scores_are_the_mean_of_three_rouges_over_references():
    from tomtat.metrics.rouge import Rouge

    found = Rouge("google").row("nina is ill", ["nina is ill", "room four"])
    assert found == {kind: [100.0, 0.0] for kind in found}
    assert Rouge("google").mean("nina is ill", ["nina is ill", "room four"]) == 50.0


class Killed(Progress):
    def task(self, *_: Any, **__: Any) -> Any:
        from contextlib import nullcontext

        def advance(count: int, figures: str = "") -> None:
            raise KeyboardInterrupt

        return nullcontext(advance)


def test_a_stopped_draw_goes_on_and_does_no_row_twice(
    llama_run: tomtat.RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unbroken = draw_candidates(llama_run, draw=DRAW, out=tmp_path / "unbroken.jsonl")
    monkeypatch.setattr("tomtat.candidates.WINDOW", 5)
    with pytest.raises(Interrupted, match="5 of 12 rows"):
        draw_candidates(llama_run, draw=DRAW, progress=Killed())
    path = llama_run.path / "candidates.jsonl"
    written = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"id": "row-1", "row": "torn by a ki')
    room = draw_candidates(llama_run, draw=DRAW)

    assert path.read_bytes().startswith(written)
    assert len(lines(path)) == 13
    by_id = {row["id"]: row for row in lines(path)[1:]}
    assert by_id == {row["id"]: row for row in lines(unbroken.path)[1:]}
    assert (room.greedy, room.oracle) == pytest.approx((unbroken.greedy, unbroken.oracle))


def test_a_file_made_otherwise_is_refused(llama_run: tomtat.RunFolder, data: Path):
    draw_candidates(llama_run, draw=DRAW)
    with pytest.raises(RunError, match=r"candidates\.jsonl was made with decoding .* -o"):
        draw_candidates(llama_run, draw=Draw(count=4, temperature=0.5))
    write_jsonl(data, [row | {"summary": "Something else."} for row in rows(12)])
    with pytest.raises(DataError, match="'row-0' was made for another text or other references"):
        draw_candidates(llama_run, draw=DRAW)


@pytest.mark.parametrize("content", ["dear diary", "dear\ndiary", '{"id": 1}\n'])
def test_a_file_that_is_none_of_ours_is_left_as_it_is(llama_run: tomtat.RunFolder, tmp_path: Path, content: str):
    path = tmp_path / "mine.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="does not begin with a header"):
        draw_candidates(llama_run, draw=DRAW, out=path)
    assert path.read_text() == content


def test_a_header_that_a_kill_tore_is_written_anew(llama_run: tomtat.RunFolder):
    path = llama_run.path / "candidates.jsonl"
    path.write_text('{"candidates_of": "runs/')
    assert draw_candidates(llama_run, draw=DRAW).rows == 12
    assert len(lines(path)) == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not begin with a header"),
        ('{"id": 1}\n', "does not begin with a header"),
        ('{"candidates_of": "x"}\n{"id": 1}\n', "line 2: not a row of candidates"),
        ('{"candidates_of": "x"}\n{"id"\n', "line 2: "),
        ('{"candidates_of": "x"}\n' + 2 * '{"id": 1, "row": "a", "candidates": []}\n', "line 3: the id 1 stands"),
    ],
)
def test_a_damaged_file_says_where(tmp_path: Path, content: str, message: str):
    path = tmp_path / "candidates.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        CandidateFile.read(path)
    assert "\n" not in str(error.value)


# --- learning from them


def made_up(run: tomtat.RunFolder) -> Path:
    """The better candidate is the less likely one: what training says nothing of."""
    path = draw_candidates(run, draw=Draw(count=2)).path
    header, *found = lines(path)
    summaries = {row["id"]: row["summary"] for row in rows(12)}
    for row in found:
        better = Candidate("room four is painted", 90.0)
        worse = Candidate(f"Friday it is, {summaries[row['id']]}", 10.0)
        row["candidates"] = [{"text": one.text, "score": one.score} for one in (worse, better)]
    return write_jsonl(path, [header, *found])


SMALL = {"train.learning_rate": 3e-3, "train.epochs": 3}
UNJUDGED = {"train.choose_by": "loss", "data.validation": None}


def advantage(run: tomtat.RunFolder) -> float:
    """How much likelier the better candidates are, per token, over all rows."""
    model = tomtat.Summarizer.load(run).model
    examples = load_examples(run.config.data.train)
    found = CandidateFile.read(run.path.parent / "run" / "candidates.jsonl").of(examples)
    total = 0.0
    with torch.no_grad():
        for example, (worse, better) in zip(examples, found, strict=True):
            targets = [model.target(better.text), model.target(worse.text)]
            row = Choices(model.encode(str(example.source), None, 512).prompt_ids, targets)
            good, bad = model.log_probs([row])[0].tolist()
            total += good / len(targets[0]) - bad / len(targets[1])
    return total


def test_calibration_makes_the_better_candidates_likelier(run: tomtat.RunFolder, tmp_path: Path):
    made_up(run)
    notes: list[str] = []

    class Listening(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    better = calibrate(run, SMALL | UNJUDGED, tmp_path / "better", Listening())

    assert advantage(better) > advantage(run) + 1
    losses = [row["train_loss"] for row in better.metrics() if row["kind"] == "epoch"]
    assert losses[-1] < losses[0]
    assert better.info()["calibrated_from"]["run"] == str(run.path)
    assert better.config.calibrate.run == str(run.path)
    assert better.config.lora == run.config.lora
    assert "24 candidates to rank; 12 of 12 rows have a better and a worse one" in notes
    assert CandidateFile.read(draw_candidates(better, draw=DRAW).path).rows


def test_the_start_is_kept_where_calibration_finds_nothing_better(
    llama_run: tomtat.RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made_up(llama_run)
    scores = iter([30.0, 20.0, 10.0, 10.0])
    monkeypatch.setattr("tomtat.training.judging.Judge.score_sum", lambda self, numbers: next(scores) * len(numbers))
    better = calibrate(llama_run, SMALL, tmp_path / "better")

    assert better.info()["best_epoch"] == 0
    judged = [row["validation_rouge"] for row in better.metrics() if row["kind"] in ("start", "epoch")]
    assert judged == [30.0, 20.0, 10.0, 10.0]
    assert tomtat.Summarizer.load(better)("can we meet?") == tomtat.Summarizer.load(llama_run)("can we meet?")


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_stopped_calibration_ends_like_an_unbroken_one(llama_run: tomtat.RunFolder, tmp_path: Path, steps: int):
    draw_candidates(llama_run, draw=DRAW)
    unbroken = calibrate(llama_run, SMALL, tmp_path / "unbroken")
    with pytest.raises(Interrupted, match="tomtat train --resume"):
        calibrate(llama_run, SMALL, tmp_path / "stopped", StopAfter(steps))
    resumed = resume(tmp_path / "stopped")

    assert adapter(resumed) == adapter(unbroken)
    assert without_times(resumed.metrics()) == without_times(unbroken.metrics())


def test_a_calibration_does_not_go_on_with_other_candidates(llama_run: tomtat.RunFolder, tmp_path: Path):
    draw_candidates(llama_run, draw=DRAW)
    with pytest.raises(Interrupted):
        calibrate(llama_run, SMALL, tmp_path / "stopped", StopAfter(4))
    made_up_path = llama_run.path / "candidates.jsonl"
    made_up_path.unlink()
    made_up(llama_run)
    with pytest.raises(RunError, match=r"candidates changed"):
        resume(tmp_path / "stopped")


def test_a_step_does_not_depend_on_how_its_rows_are_cut(run: tomtat.RunFolder, tmp_path: Path):
    draw_candidates(run, draw=DRAW)
    runs = [
        calibrate(run, SMALL | {"train.micro_batch_tokens": tokens}, tmp_path / str(tokens))
        for tokens in (1, 400, 100_000)
    ]
    for name in ("loss", "grad_norm"):
        first, *others = [[row[name] for row in one.metrics() if row["kind"] == "step"] for one in runs]
        for other in others:
            assert other == pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize("method", [{"train.method": "full"}, {"lora.init": "pissa"}, {"lora.use_dora": True}], ids=str)
def test_other_ways_to_train_can_be_calibrated_too(settings: dict[str, Any], tmp_path: Path, method: dict[str, Any]):
    run = tomtat.finetune(settings=settings | method, out=tmp_path / "run")
    made_up(run)
    better = calibrate(run, SMALL | UNJUDGED, tmp_path / "better")
    assert advantage(better) > advantage(run)
    assert better.info()["base"] == run.info()["base"]
    assert [path.name for path in better.trained_path.iterdir()] == [path.name for path in run.trained_path.iterdir()]


def test_what_is_judged_is_what_the_kept_weights_write(settings: dict[str, Any], tmp_path: Path):
    from tomtat.metrics.rouge import Rouge

    chosen = {"train.choose_by": "rouge", "train.choose_rows": 2, "train.epochs": 1, "generate.max_new_tokens": 16}
    run = tomtat.finetune(settings=settings | chosen, out=tmp_path / "run")
    [epoch] = [row for row in run.metrics() if row["kind"] == "epoch"]
    summarizer = tomtat.Summarizer.load(run)
    examples = load_examples(f"{settings['data.train']}[:2]")
    scores = [Rouge("google").mean(summarizer(row.source), row.references) for row in examples]
    assert epoch["validation_rouge"] == pytest.approx(sum(scores) / 2)


def test_plain_training_can_choose_by_summaries_too(
    tiny_llama: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scores = iter([30.0, 20.0])
    monkeypatch.setattr("tomtat.training.judging.Judge.score_sum", lambda self, numbers: next(scores) * len(numbers))
    run = tomtat.finetune(
        settings=small_settings(tiny_llama, data) | {"train.choose_by": "rouge"}, out=tmp_path / "run"
    )
    losses = [row["validation_loss"] for row in run.metrics() if row["kind"] == "epoch"]
    assert losses[1] < losses[0]
    assert run.info()["best_epoch"] == 1


# --- the command line


def test_the_command_line_goes_all_the_way(llama_run: tomtat.RunFolder, tmp_path: Path, tomtat: Callable[..., Any]):
    drawn = tomtat("candidates", llama_run.path, "--count", 4)
    assert drawn.code == 0, drawn.err
    for name in ("greedy", "mean candidate", "chosen by MBR", "best of each row", "train --candidates"):
        assert name in drawn.out
    assert tomtat("candidates", llama_run.path, "--count", 4, "--validation").code == 0
    assert len(lines(llama_run.path / "candidates.validation.jsonl")) == 5

    trained = tomtat("train", "--candidates", llama_run.path, "--out", tmp_path / "better", "--epochs", 1)
    assert trained.code == 0, trained.err
    assert "validation ROUGE" in trained.out
    assert "start" in trained.out


def test_slips_end_in_one_line(llama_run: tomtat.RunFolder, data: Path, tmp_path: Path, tomtat: Callable[..., Any]):
    def refused(*arguments: object) -> str:
        finished = tomtat(*arguments)
        assert finished.code == 2, finished.err
        message = finished.err.strip().splitlines()[-1]
        assert message.startswith("tomtat: ")
        return str(message)

    out = ("--out", tmp_path / "new")
    assert "`tomtat candidates RUN` makes it" in refused("train", "--candidates", llama_run.path, *out)
    assert "no run folder" in refused("train", "--candidates", tmp_path / "none", *out)
    assert "give no recipe" in refused("train", "recipe.toml", "--candidates", llama_run.path)
    assert tomtat("candidates", llama_run.path, "--data", f"{data}[:5]", "--count", 3).code == 0
    message = refused("train", "--candidates", llama_run.path, *out)
    assert "has no candidates for 7 of 12 rows (row-5, row-6, row-7, ...)" in message
    assert "lora.rank can't be changed with --candidates" in refused(
        "train", "--candidates", llama_run.path, "--rank", "2", *out
    )
    assert "was made with data" in refused("candidates", llama_run.path, "--count", 3)
    assert "--temperature 0" in refused("candidates", llama_run.path, "--temperature", "0")
    assert "no folder" in refused("candidates", llama_run.path, "-o", tmp_path / "nowhere" / "x.jsonl")
    assert not (tmp_path / "new").exists()


def test_what_the_weights_were_made_with_is_fixed(llama_run: tomtat.RunFolder):
    from tomtat.config import calibration_config

    for name in ("prompt.template", "data.train", "data.max_source_tokens", "train.method"):
        with pytest.raises(ConfigError, match=f"{name} can't be changed"):
            calibration_config("runs/x", llama_run.config, {name: "x"})
    config = calibration_config("runs/x", llama_run.config, {"data.validation": "v.jsonl", "train.epochs": 7})
    assert (config.train.epochs, config.train.choose_by, config.data.validation) == (7, "rouge", "v.jsonl")
