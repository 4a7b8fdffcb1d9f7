"""Exports of tiny runs to every format, the check that keeps or refuses them, and pushing without a network."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tomtat
from conftest import small_settings
from tomtat import Summarizer
from tomtat.engines.opening import Place
from tomtat.errors import ConfigError, ModelError, RunError
from tomtat.exporting import export, push
from tomtat.exporting.check import check, inputs
from tomtat.exporting.runners import torch_runner, until_end
from tomtat.models import Decoding, Encoded, load_trained
from tomtat.progress import Progress

HAS = {name: importlib.util.find_spec(name) is not None for name in ("ctranslate2", "onnxruntime_genai", "onnx_ir")}
needs_ctranslate2 = pytest.mark.skipif(not HAS["ctranslate2"], reason="needs the extra ctranslate2")
needs_onnx = pytest.mark.skipif(not (HAS["onnxruntime_genai"] and HAS["onnx_ir"]), reason="needs the extra onnx")


def train(model: Path, data: Path, folder: Path, **settings: Any) -> Path:
    return tomtat.finetune(settings=small_settings(model, data) | settings, out=folder).path


@pytest.fixture(scope="session")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_t5: Path, tiny_tied_t5: Path, tiny_llama: Path
) -> dict[str, Path]:
    """A run of each kind, trained once; tests must not change them."""
    from conftest import rows, write_jsonl

    place = tmp_path_factory.mktemp("runs")
    data = write_jsonl(place / "data.jsonl", rows(12))
    return {
        "t5": train(tiny_t5, data, place / "t5"),
        "tied_t5": train(tiny_tied_t5, data, place / "tied_t5", **{"lora.target": "decoder + lm_head"}),
        "llama": train(tiny_llama, data, place / "llama"),
        "whole": train(tiny_t5, data, place / "whole", **{"train.method": "full"}),
    }


# --- each format


@pytest.mark.parametrize("kind", ["t5", "tied_t5", "llama", "whole"])
@pytest.mark.parametrize("to", ["merged", "adapter", pytest.param("ctranslate2", marks=needs_ctranslate2)])
def test_lossless_exports_say_what_the_run_says(runs: dict[str, Path], tmp_path: Path, kind: str, to: str):
    if (kind, to) == ("whole", "adapter"):
        pytest.skip("a whole model has no adapter")
    made = export(runs[kind], to, tmp_path / "out")
    assert made.check.passes
    assert made.check.count == 10
    assert (tmp_path / "out" / "tomtat.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@needs_ctranslate2
@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_what_was_exported_for_ctranslate2_is_run_by_it(
    runs: dict[str, Path], tmp_path: Path, kind: str, tomtat: Callable[..., Any]
):
    made = export(runs[kind], "ctranslate2", tmp_path / "out").path
    texts = ["#Person1#: The meeting moves to friday.", "nina is ill " * 5]
    summarizer, own = Summarizer.load(made), Summarizer.load(runs[kind], device="cpu", precision="fp32")
    assert summarizer.engine.name == "ctranslate2 (float32)"
    assert [one.text for one in summarizer.generate(texts)] == [one.text for one in own.generate(texts)]

    (tmp_path / "a.txt").write_text(texts[0])
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    one = tomtat("summarize", made, tmp_path / "a.txt", "--engine", "auto")
    assert (one.code, one.out) == (0, own(texts[0]) + "\n")
    assert "engine: ctranslate2, which this folder was exported for" in one.err
    command = ("summarize", made, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    assert "engine: ctranslate2, which this folder was exported for" in tomtat(*command).err
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["near_ties"] is None
    before = Place(str(made), "cpu", "fp32", None).fingerprint()
    (made / "model.bin").write_bytes(b"other weights")
    assert Place(str(made), "cpu", "fp32", None).fingerprint() != before
    assert "another model" in tomtat(*command).err

    refused = tomtat("summarize", made, tmp_path / "a.txt", "--engine", "torch-int8")
    assert (refused.code, "has no weights for --engine torch-int8" in refused.err) == (2, True)
    assert "by summarize, chat and serve. Name the run" in tomtat("export", made, "--to", "gguf").err


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("model-f16.gguf", "a model for llama.cpp, which tomtat does not run"),
        ("genai_config.json", "a model for ONNX Runtime GenAI, which tomtat does not run"),
        ("model.bin", "a model for CTranslate2; only those with their tomtat.json are run"),
    ],
)
@pytest.mark.parametrize("has_info", [False, True])
def test_a_folder_in_anothers_format_says_what_it_is(
    runs: dict[str, Path], tmp_path: Path, file: str, what: str, has_info: bool, tomtat: Callable[..., Any]
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_bytes(b"weights")
    (tmp_path / "a.txt").write_text("The meeting moves to friday.")
    commands = [("summarize", tmp_path / "out", tmp_path / "a.txt"), ("summarize", tmp_path / "out", tmp_path / "in")]
    (tmp_path / "in").write_text('{"text": "one"}\n')
    if has_info:
        shutil.copyfile(runs["llama"] / "adapter" / "tomtat.json", tmp_path / "out" / "tomtat.json")
        commands = [("export", tmp_path / "out", "--to", "merged"), *(commands if file != "model.bin" else [])]
    for command in commands:
        result = tomtat(*command)
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
        assert f"{tmp_path}/out holds {what}" in result.err
        assert "or export that --to merged" in result.err


def wide_heads(tiny_llama: Path, folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_llama)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 16
    shutil.copytree(tiny_llama, folder)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@needs_onnx
def test_heads_that_onnx_runtime_does_not_take_are_told(runs: dict[str, Path], tmp_path: Path):
    with pytest.raises(ModelError, match="ONNX Runtime can't run this model"):
        export(runs["llama"], "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_onnx_of_a_causal_model_says_what_the_run_says(tiny_llama: Path, data: Path, tmp_path: Path):
    made = export(train(wide_heads(tiny_llama, tmp_path / "model"), data, tmp_path / "run"), "onnx", tmp_path / "out")
    assert made.check.passes
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "tomtat.json"} <= {
        path.name for path in made.path.iterdir()
    }


@pytest.mark.parametrize("quantization", ["f32", "f16", "q8_0"])
def test_gguf_is_read_back(runs: dict[str, Path], tmp_path: Path, quantization: str):
    made = export(runs["llama"], "gguf", tmp_path / "out", quantization)
    assert (made.path / f"model-{quantization}.gguf").is_file()
    if quantization == "f32":
        assert made.check.passes
    assert made.check.rouge_l > 50


@needs_ctranslate2
def test_int8_is_kept_and_what_it_costs_is_told(runs: dict[str, Path], tmp_path: Path):
    made = export(runs["t5"], "ctranslate2", tmp_path / "out", "int8")
    assert made.check.count == 10
    assert "of 10 summaries the same" in str(made.check)


def test_plain_peft_reads_the_adapter_and_finds_prompt_limits_and_hash(
    runs: dict[str, Path], tiny_t5: Path, tmp_path: Path
):
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    folder = export(runs["t5"], "adapter", tmp_path / "out").path
    PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), str(folder))
    base = json.loads((folder / "tomtat.json").read_text())["base"]

    assert base == json.loads((runs["t5"] / "adapter" / "tomtat.json").read_text())["base"] | {"hub_id": None}
    assert "SHA-256 of the base's weights" in (folder / "README.md").read_text()


def test_an_adapter_of_the_embedded_model_names_its_hub_id(runs: dict[str, Path], tmp_path: Path):
    from tomtat.exporting.files import write_shared

    trained = shutil.copytree(runs["llama"] / "adapter", tmp_path / "adapter")
    info = json.loads((trained / "tomtat.json").read_text())
    info["base"]["name"] = "smollm2-135m-instruct"
    (trained / "tomtat.json").write_text(json.dumps(info))
    (tmp_path / "out").mkdir()
    write_shared(trained, None, tmp_path / "out")

    hub = "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == hub
    written = json.loads((tmp_path / "out" / "tomtat.json").read_text())["base"]
    # tomtat itself goes on with the weights that were trained on.
    assert (written["name"], written["hub_id"]) == ("smollm2-135m-instruct", hub)


def test_a_trained_folder_without_its_run_is_exported_too(runs: dict[str, Path], tmp_path: Path):
    folder = shutil.copytree(runs["t5"] / "adapter", tmp_path / "adapter")
    assert export(folder, "merged").path == tmp_path / "exports" / "merged"


@pytest.mark.parametrize(
    ("kind", "to", "quantization", "error", "message"),
    [
        ("t5", "onnx", None, ModelError, r"ONNX is not possible for T5ForConditionalGeneration.*optimum-onnx"),
        ("t5", "gguf", None, ModelError, r"Llama's shape only, not for T5ForConditionalGeneration"),
        ("whole", "adapter", None, RunError, "is a whole model"),
        ("t5", "tflite", None, ConfigError, "There is no export to 'tflite'. Choose merged, adapter"),
        ("t5", "gguf", "q2_k", ConfigError, "gguf has no 'q2_k' here. Choose f16"),
    ],
)  # fmt: skip
def test_what_is_impossible_is_refused_with_the_reason(
    runs: dict[str, Path],
    tmp_path: Path,
    kind: str,
    to: str,
    quantization: str | None,
    error: type[Exception],
    message: str,
):
    with pytest.raises(error, match=message):
        export(runs[kind], to, tmp_path / "out", quantization)
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_nothing(runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        export(runs["t5"], "merged", tmp_path / "out")


@pytest.mark.parametrize("setting", ["attention_bias", "rope"])
def test_a_llama_that_the_gguf_writer_does_not_know_is_refused(tiny_llama: Path, tmp_path: Path, setting: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    from tomtat.models.gguf_file import write_gguf

    config = LlamaConfig.from_pretrained(tiny_llama)
    if setting == "rope":
        config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    else:
        config.attention_bias = True
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="which tomtat's GGUF writer does not know"):
        write_gguf(folder, tmp_path / "model.gguf")


def test_a_tokenizer_that_the_gguf_writer_does_not_know_is_refused(tiny_llama: Path, tmp_path: Path):
    from tomtat.models.gguf_file import write_gguf

    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="does not know this tokenizer"):
        write_gguf(folder, tmp_path / "model.gguf")


# --- the check


def test_ten_inputs():
    assert len(inputs()) == 10


def parted(model: Any, by: float) -> Callable[[Sequence[Encoded], int], list[list[int]]]:
    """A runner that takes another token than the run's, first where the logits lie at most `by` apart."""

    def run(rows: Sequence[Encoded], new_tokens: int) -> list[list[int]]:
        results = [until_end(ids, model.end_token_ids()) for ids in torch_runner(model)(rows, new_tokens)]
        for row, ids in zip(rows, results, strict=True):
            logits = model.target_logits([Encoded(row.prompt_ids, ids[:1])])[0][-1]
            second = int(logits.topk(2).indices[1])
            if float(logits[ids[0]] - logits[second]) <= by:
                ids[0] = second
        return results

    return run


def test_a_near_tie_is_tolerated_and_counted(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    model, info = load_trained(runs["t5"] / "adapter", "cpu", "fp32")
    monkeypatch.setattr("tomtat.exporting.check.NEAR_TIE", 1e9)
    found = check(model, parted(model, by=1e9), info.max_source_tokens, 8, Progress())
    assert found.passes
    assert found.near_ties + found.same == 10
    assert found.near_ties > 0
    assert "more part at a near-tie" in str(found)


def test_another_summary_fails_the_export_and_leaves_nothing(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tomtat.models import merging

    original = merging.merge

    def spoiled(model: Any) -> Any:
        network = original(model)
        with torch.no_grad():
            network.lm_head.weight += torch.randn_like(network.lm_head.weight)
        return network

    monkeypatch.setattr(merging, "merge", spoiled)
    with pytest.raises(ModelError, match=r"gives other summaries than the run .*First difference: .* became "):
        export(runs["t5"], "merged", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_generated_ids_are_those_of_the_summary(runs: dict[str, Path]):
    model, _ = load_trained(runs["llama"] / "adapter", "cpu", "fp32")
    row = model.encode("room four", None, 50)
    [ids], [[generation]] = model.generate_ids([row], Decoding(8)), model.generate([row], Decoding(8))
    assert (
        model.tokenizer.decode(until_end(ids, model.end_token_ids()), skip_special_tokens=True).strip()
        == generation.text
    )


# --- push


class FakeApi:
    """The hub's client, as far as push uses it."""

    pushed: dict[str, Any]
    public = False

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> str:
        FakeApi.pushed = {"repo": repo, "private": private}
        return f"hub/{repo}"

    def repo_info(self, repo: str) -> Any:
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        FakeApi.pushed["files"] = {path.name: path.read_bytes() for path in folder_path.iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_fake")
    monkeypatch.setattr(FakeApi, "public", False)
    FakeApi.pushed = {}
    return FakeApi


def test_push_uploads_adapter_card_and_base(runs: dict[str, Path], hub: type[FakeApi]):
    pushed = push(runs["t5"], "nina/chats", private=True, base_id="google/flan-t5-small")
    files = hub.pushed["files"]

    assert (hub.pushed["repo"], hub.pushed["private"], pushed.url) == ("nina/chats", True, "hub/nina/chats")
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "tomtat.json"}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "google/flan-t5-small"
    base = json.loads(files["tomtat.json"])["base"]
    assert (base["name"], base["hub_id"], len(base["sha256"])) == ("google/flan-t5-small", "google/flan-t5-small", 64)
    assert b"base_model: google/flan-t5-small" in files["README.md"]
    assert str(runs["t5"].parent).encode() not in b"".join(files.values())


def test_a_dry_run_touches_no_network(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    pushed = push(runs["whole"], "nina/chats", dry_run=True, base_id="google/flan-t5-small")
    assert pushed.url is None
    assert {name for name, _ in pushed.files} >= {"README.md", "model.safetensors", "config.json", "tokenizer.json"}
    assert not any(name.endswith((".py", ".bin")) for name, _ in pushed.files)


def test_what_push_needs_is_told_in_one_line(
    runs: dict[str, Path], hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    for name in ("chats", "nina/my chats", "nina/../x", "a/b/c", "nina/chats.git"):
        with pytest.raises(ConfigError, match=r"no repository's name\. Give user/name"):
            push(runs["t5"], name, base_id="google/flan-t5-small")
    with pytest.raises(ConfigError, match="--base-id user/name"):
        push(runs["t5"], "nina/chats")
    monkeypatch.setattr(hub, "public", True)
    with pytest.raises(ModelError, match="exists already and is public"):
        push(runs["t5"], "nina/chats", private=True, base_id="google/flan-t5-small")
    assert "files" not in hub.pushed
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ModelError, match="not logged in"):
        push(runs["t5"], "nina/chats", base_id="google/flan-t5-small")


@pytest.mark.parametrize(
    ("status", "message"), [(None, "can't be reached"), (403, "does not let you write"), (500, "refused the upload")]
)
def test_what_the_hub_says_is_one_line(
    runs: dict[str, Path], hub: type[FakeApi], monkeypatch: pytest.MonkeyPatch, status: int | None, message: str
):
    from huggingface_hub.errors import HfHubHTTPError

    def fail(*_: Any, **__: Any) -> None:
        if status is None:
            raise ConnectionError("no route")
        raise HfHubHTTPError(
            "said the hub\nin two lines",
            response=type("Response", (), {"status_code": status, "headers": {}, "request": None})(),
        )  # type: ignore[arg-type]

    monkeypatch.setattr(hub, "upload_folder", fail)
    with pytest.raises(ModelError, match=message) as told:
        push(runs["t5"], "nina/chats", base_id="google/flan-t5-small")
    assert "\n" not in str(told.value)


# --- the command line


def test_the_commands(tomtat: Callable[..., Any], runs: dict[str, Path], tmp_path: Path):
    run = shutil.copytree(runs["t5"], tmp_path / "run")
    result = tomtat("export", run, "--to", "merged")
    assert result.code == 0, result.err
    assert "10 of 10 summaries the same." in result.out
    assert str(run / "exports" / "merged") in result.out
    assert tomtat("summarize", run / "exports" / "merged", write(tmp_path / "a.txt"), "--device", "cpu").code == 0

    result = tomtat("push", run, "nina/chats", "--dry-run", "--base-id", "google/flan-t5-small")
    assert result.code == 0, result.err
    assert "adapter_model.safetensors" in result.out
    assert "base_model: google/flan-t5-small" in result.out
    assert "Nothing was uploaded" in result.out
    assert "names no licence" in result.err
    assert (tomtat("export", run, "--to", "tflite").code, tomtat("push", run, "x").code) == (2, 2)


def write(path: Path) -> Path:
    path.write_text("The meeting moves to friday.")
    return path
