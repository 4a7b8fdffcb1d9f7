"""Each family in small, through all that a user does with it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import tomtat
from conftest import rows, small_settings, write_jsonl
from tiny_families import FAMILIES, save_family
from tomtat.config import LoraSettings, ModelSettings, PromptSettings, TrainSettings
from tomtat.engines.torch_engine import TorchEngine
from tomtat.errors import ConfigError, DataError, ModelError
from tomtat.models import Decoding, SummarizerModel, load_base, load_trained
from tomtat.models.adapters import prepare_training, trainable_state
from tomtat.models.base import Choices
from tomtat.models.families import target_front
from tomtat.models.frozen import FrozenBatch, frozen_part
from tomtat.models.merging import save_merged
from tomtat.models.parameters import count_parameters
from tomtat.models.selection import select
from tomtat.progress import Progress

SEQ2SEQ = [
    "t5", "mt5", "umt5", "longt5-local", "longt5-tglobal", "bart", "mbart", "mbart50", "pegasus", "led",
]  # fmt: skip
CAUSAL = [name for name in FAMILIES if name not in SEQ2SEQ]
WITH_LANES = ["t5", "mt5", "umt5", "longt5-local", "longt5-tglobal", "qwen2", "qwen3", "gemma", "smollm3", "phi4-mini"]
TEXTS = [
    "They meet on Friday in room 4.",
    "Nina is ill.\nThe meeting moves. " * 6,
    "A B C",
    "room four is painted, and the meeting moves to friday " * 4,
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: save_family(name, root / name) for name in FAMILIES}


def base(folder: Path, **prompt: Any) -> SummarizerModel:
    return load_base(ModelSettings(name=str(folder), device="cpu", precision="fp32"), PromptSettings(**prompt))


def logits(model: SummarizerModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.target_logits([model.encode("room four is painted", "They moved.", 100)])[0]


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


# --- the whole way


@pytest.mark.parametrize("family", FAMILIES)
def test_train_evaluate_merge_reload_and_plain_peft(family: str, folders: dict[str, Path], data: Path, tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    settings = small_settings(folders[family], data) | {"train.epochs": 1, "train.batch_size": 6}
    run = tomtat.finetune(settings=settings | {"data.max_source_tokens": 100}, out=tmp_path / "run")
    scores = tomtat.evaluate(run, settings={"evaluate.metrics": ["rouge"]}, yardsticks=False)
    trained, _ = load_trained(run.trained_path, "cpu", "fp32")
    save_merged(run.trained_path, tmp_path / "merged")
    merged, _ = load_trained(tmp_path / "merged", "cpu", "fp32")
    kind = AutoModelForSeq2SeqLM if trained.is_encoder_decoder else AutoModelForCausalLM
    plain = PeftModel.from_pretrained(kind.from_pretrained(folders[family]), str(run.adapter_path)).eval()

    assert scores.systems
    ours = logits(trained)
    assert not torch.allclose(ours, logits(base(folders[family])), atol=1e-4)  # two steps have changed it
    assert torch.allclose(ours, logits(merged), atol=1e-3)
    trained.network = plain.get_base_model()
    assert torch.allclose(ours, logits(trained), atol=1e-5)
    of_run, of_merged = (tomtat.Summarizer.load(path) for path in (run.path, tmp_path / "merged"))
    assert [of_run(text) for text in TEXTS] == [of_merged(text) for text in TEXTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_summaries_do_not_depend_on_the_batch(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    encoded = [model.encode(text, "They meet" + " on Friday" * n, 90) for n, text in enumerate(TEXTS)]

    with torch.inference_mode():
        together, alone = model.loss_sum(encoded), sum(model.loss_sum([row]) for row in encoded)
    assert together.item() == pytest.approx(float(alone), rel=1e-4)
    assert model.generate(encoded, Decoding(12)) == [model.generate([row], Decoding(12))[0] for row in encoded]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_says_what_plain_generate_says(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    encoded = [model.encode(text, None, 90) for text in TEXTS]
    plain = []
    for row in encoded:
        ids = torch.tensor([row.prompt_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if family == "led":
            inputs["global_attention_mask"] = torch.zeros_like(ids).index_fill_(1, torch.tensor([0]), 1)
        # The released settings are for Transformers' own users; the engine is held against greedy search without them.
        model.network.generation_config = type(model.network.generation_config)(**model.start_settings())
        output = model.network.generate(
            **inputs, max_new_tokens=16, do_sample=False, eos_token_id=model.end_token_ids(),
            pad_token_id=model.pad_token_id,
        )  # fmt: skip
        new = output[0, 1 if model.is_encoder_decoder else len(row.prompt_ids) :]
        plain.append(model.generation(row, new.tolist()))

    # A small budget, so that lanes leave and others join.
    found = [row[0] for row in TorchEngine(model, batch_tokens=250).candidates(encoded, Decoding(16))]

    assert model.has_lanes == (family in WITH_LANES)
    assert [(one.text, one.new_tokens, one.finish_reason) for one in found] == [
        (one.text, one.new_tokens, one.finish_reason) for one in plain
    ]
    assert len({one.text for one in found}) > 1


@pytest.mark.parametrize("family", WITH_LANES)
def test_beams_find_what_plain_generate_finds(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    encoded = [model.encode(text, None, 90) for text in TEXTS]
    beams = Decoding(16, num_beams=3)

    found = TorchEngine(model, batch_tokens=700).candidates(encoded, beams)

    alone = [model.generate([row], beams)[0] for row in encoded]
    assert [one[0].text for one in found] == [one[0].text for one in alone]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_a_frozen_part_give_the_same_loss(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    encoded = [model.encode(text, "They meet.", 90) for text in TEXTS]
    target = "decoder" if model.is_encoder_decoder else "top-1"
    prepare_training(model, LoraSettings(target=target), TrainSettings())
    part = frozen_part(model.network)

    assert (part is None) == family.startswith(("led", "longt5"))
    if part is not None:
        below = FrozenBatch.of(part, [part.states(model.frozen_ids(row)) for row in encoded])
        assert model.loss_sum(encoded, below).item() == pytest.approx(model.loss_sum(encoded).item(), rel=1e-4)
        choices = [Choices(row.prompt_ids, [row.target_ids, model.target("Nina is ill.")]) for row in encoded]
        below = FrozenBatch.of(part, [part.states(one) for row in choices for one in model.frozen_rows(row)])
        torch.testing.assert_close(torch.cat(model.log_probs(choices, below)), torch.cat(model.log_probs(choices)))


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("lower", [0, 1])
def test_the_last_layer_where_nothing_follows_makes_no_difference(
    family: str, lower: int, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    model = base(folders[family])
    encoded = [model.encode(text, "They meet.", 90) for text in TEXTS]
    prepare_training(model, LoraSettings(target=f"top-{lower}" if lower else "all-linear"), TrainSettings())
    for weight in trainable_state(model.network).values():
        weight.data.normal_(std=0.1)
    part = frozen_part(model.network)
    below = part and FrozenBatch.of(part, [part.states(model.frozen_ids(row)) for row in encoded])
    choices = [Choices(row.prompt_ids, [row.target_ids, model.target("Nina is ill.")]) for row in encoded]

    def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor]:
        loss = model.loss_sum(encoded, below) + torch.cat(model.log_probs(choices)).sum()
        parameters = list(trainable_state(model.network).values())
        return loss, torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])

    with tokens_read(model.network.get_decoder().layers[-1].mlp) as read:
        loss, gradient = loss_and_gradient()
    few, read[:] = sum(read), []
    monkeypatch.setattr("tomtat.models.causal.last_layer_at", lambda *_: nullcontext())
    with tokens_read(model.network.get_decoder().layers[-1].mlp) as read:
        wanted_loss, wanted = loss_and_gradient()

    assert few < 0.6 * sum(read)
    torch.testing.assert_close(loss, wanted_loss)
    assert (gradient - wanted).norm() < 1e-5 * wanted.norm()


@contextmanager
def tokens_read(part: Any) -> Iterator[list[int]]:
    read: list[int] = []
    inner = next(module for module in part.modules() if isinstance(module, torch.nn.Linear))
    hook = inner.register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0].shape[:-1].numel()))
    try:
        yield read
    finally:
        hook.remove()


# --- words for parts of a network

PER_LAYER = {
    # family: linear layers of attention, of all; in an encoder's layer and in a decoder's
    "t5": (4, 7, 8, 11), "mt5": (4, 7, 8, 11), "umt5": (4, 7, 8, 11), "longt5-local": (4, 7, 8, 11),
    "longt5-tglobal": (4, 7, 8, 11), "bart": (4, 6, 8, 10), "mbart": (4, 6, 8, 10), "mbart50": (4, 6, 8, 10),
    "pegasus": (4, 6, 8, 10), "led": (7, 9, 8, 10), "qwen2": (0, 0, 4, 7), "qwen3": (0, 0, 4, 7),
    "gemma": (0, 0, 4, 7), "gemma2": (0, 0, 4, 7), "gemma3": (0, 0, 4, 7), "smollm3": (0, 0, 4, 7),
    "phi3": (0, 0, 2, 4), "phi4-mini": (0, 0, 2, 4),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_mean_the_same_in_each_family(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    attention_below, all_below, attention, everything = PER_LAYER[family]
    layers = 2 if model.is_encoder_decoder else 4

    def count(target: str) -> int:
        return len(select(model.network, target, "lora.target", linear_only=True))

    assert count("all-linear") == layers * (all_below + everything)
    assert count("attention") == layers * (attention_below + attention)
    assert count("decoder") == layers * everything
    assert count("decoder attention") == layers * attention
    assert count("top-1") == all_below + everything
    assert count("decoder top-1") == count("decoder bottom-1") == everything
    assert count("decoder + lm_head") == layers * everything + 1
    if model.is_encoder_decoder:
        assert count("encoder") == layers * all_below
    else:
        with pytest.raises(ConfigError, match=r"'encoder' matches nothing in .* It has: model\.layers\.\*"):
            count("encoder")
    embeddings = select(model.network, "embeddings", "train.freeze", linear_only=False)
    assert all("position" not in name and "bias" not in name for name in embeddings)
    frozen = select(model.network, "attention", "train.freeze", linear_only=False)
    assert not any(name.endswith(("attn_layer_norm", "attention_layernorm")) for name in frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_weight_is_counted_once_and_the_adapter_beside(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    weights = {id(weight): weight.numel() for weight in model.network.parameters()}
    targets = select(model.network, "all-linear", "lora.target", linear_only=True)
    sizes = [model.network.get_submodule(name).weight.shape for name in targets]
    prepare_training(model, LoraSettings(rank=2), TrainSettings())
    count = count_parameters(model.network)

    assert count.base == sum(weights.values())
    assert count.trainable == count.added == sum(2 * (rows + columns) for rows, columns in sizes)
    assert sum(row.base for row in count.modules) == count.base
    assert len(count.modules) < 60  # layers are folded


def test_params_shows_a_familys_own_names(tomtat: Any, folders: dict[str, Path], tmp_path: Path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'[model]\nname = "{folders["led"]}"\n[lora]\nrank = 2\ntarget = "encoder attention"\n')
    shown = tomtat("params", recipe)

    line = next(line for line in shown.out.splitlines() if "query_global" in line)
    assert line.split()[-2:] == [f"{2 * (32 * 32 + 32):,}", f"{2 * 2 * (32 + 32)}"]
    missed = tomtat("params", recipe, "--set", "lora.target=qkv_proj")
    assert missed.code == 2
    assert "led.encoder.layers.*.self_attn.longformer_self_attn.query (2)" in missed.err


def test_a_model_that_sees_images_is_trained_where_text_goes_through(tmp_path: Path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = Gemma3TextConfig(vocab_size=500, head_dim=8, num_key_value_heads=2, sliding_window=16, **shape)
    seen = {**shape, "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"}
    network = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text.to_dict(), vision_config=seen))

    names = select(network, "all-linear", "lora.target", linear_only=True)
    assert len(names) == 2 * 7
    assert all("language_model" in name for name in names)


# --- what a family reads and writes


@pytest.mark.parametrize(
    ("family", "prompt", "target"),
    [
        ("t5", "summarize: They meet</s>", "They</s>"),
        ("bart", "<s>They meet</s>", "<s>They</s>"),
        ("led", "<s>They meet</s>", "<s>They</s>"),
        ("pegasus", "They meet</s>", "They</s>"),
        ("mbart", "They meet</s>en_XX", "They</s>"),
        ("mbart50", "en_XX They meet</s>", "en_XX They</s>"),
        ("qwen2", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nThey meet<|im_end|>\n"
         "<|im_start|>assistant\n", "They<|im_end|>"),
        ("qwen3", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nThey meet<|im_end|>\n"
         "<|im_start|>assistant\n<think>\n\n</think>\n\n", "They<|im_end|>"),
        ("gemma", "<bos><start_of_turn>user\nBe brief.\n\nThey meet<end_of_turn>\n<start_of_turn>model\n",
         "They<end_of_turn>"),
        ("gemma3", "<bos><start_of_turn>user\nBe brief.\n\nThey meet<end_of_turn>\n<start_of_turn>model\n",
         "They<end_of_turn>"),
        ("phi3", "<|system|>\nBe brief.<|end|>\n<|user|>\nThey meet<|end|>\n<|assistant|>\n", "They<|end|>"),
        ("phi4-mini", "<|system|>Be brief.<|end|><|user|>They meet<|end|><|assistant|>", "They<|end|>"),
    ],
)  # fmt: skip
def test_prompts_and_targets_are_as_the_family_knows_them(
    family: str, prompt: str, target: str, folders: dict[str, Path]
):
    causal = {"template": "{text}", "system": "Be brief."} if family in CAUSAL else {}
    model = base(folders[family], **causal)
    row = model.encode("They meet", "They", 100)

    assert model.tokenizer.decode(row.prompt_ids) == prompt
    assert model.tokenizer.decode(row.target_ids) == target
    assert row.target_ids[-1] in model.end_token_ids()


def test_a_template_with_the_date_of_today_says_the_same_each_day(
    folders: dict[str, Path],
):
    model = base(folders["smollm3"])
    prompt = model.tokenizer.decode(model.encode("They meet", None, 100).prompt_ids)

    assert "Today Date: 01 January 2025\nReasoning Mode: /no_think" in prompt
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n")


def test_a_tokenizer_that_knows_no_a_puts_nothing_before_a_summary():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "\u1015": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    assert tokenizer(text_target="a")["input_ids"] == [0]
    assert target_front(tokenizer) == []


def test_a_base_without_a_chat_template_says_what_to_take(folders: dict[str, Path], tmp_path: Path):
    import shutil

    folder = shutil.copytree(folders["qwen2"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"has no chat template.* Take its instruction-tuned version"):
        base(folder)


@pytest.mark.parametrize("family", ["bart", "pegasus", "qwen2"])
def test_settings_that_a_model_was_released_with_are_not_ours(family: str, folders: dict[str, Path]):
    model = base(folders[family])
    released = model.network.generation_config.to_dict()
    row = model.encode(TEXTS[0], None, 100)
    # Likeliest by far is the end: bart-large-cnn's would go on for 56 tokens, whatever it has to say.
    head, end = model.network.get_output_embeddings(), model.end_token_ids()[-1]
    hook = head.register_forward_hook(lambda _, __, made: made.index_fill(-1, torch.tensor([end]), 1e4))
    try:
        [[ended]] = model.generate([row], Decoding(80))
    finally:
        hook.remove()
    # Likeliest is always one and the same word: Qwen's would make it less likely, BART's forbid three in a row.
    word = model.tokenizer("room", add_special_tokens=False)["input_ids"][-1]
    hook = head.register_forward_hook(lambda _, __, made: made.index_fill(-1, torch.tensor([word]), 1e2))
    try:
        [ids] = model.generate_ids([row], Decoding(10))
    finally:
        hook.remove()

    assert ended.finish_reason == "stop"
    assert ended.new_tokens <= 2  # BART's first is `<s>`
    assert ids[-9:] == [word] * 9  # and the last is no forced end: a summary that is cut says so
    assert model.network.generation_config.to_dict() == released


def test_beams_of_bart_are_scored_as_asked(folders: dict[str, Path]):
    model = base(folders["bart"])
    config = model._generation_config(Decoding(20, num_beams=3))
    assert (config.num_beams, config.length_penalty, config.min_length) == (3, 1.0, None)
    assert (config.decoder_start_token_id, config.forced_bos_token_id, config.forced_eos_token_id) == (2, 0, None)


def test_led_sees_all_from_its_first_token(folders: dict[str, Path]):
    model = base(folders["led"])
    row = model.encode(TEXTS[1], "They meet.", 100)
    ids, labels = torch.tensor([row.prompt_ids]), torch.tensor([row.target_ids])
    seen = torch.zeros_like(ids)
    seen[:, 0] = 1
    with torch.inference_mode():
        ours, _ = model.target_logits([row])
        with_global = model.network(input_ids=ids, global_attention_mask=seen, labels=labels).logits[0]
        without = model.network(input_ids=ids, labels=labels).logits[0]

    assert torch.allclose(ours, with_global, atol=1e-4)
    assert not torch.allclose(ours, without, atol=1e-2)


def sentencepiece_file(path: Path, **ids: int) -> None:
    import sentencepiece

    from tiny_tokenizers import ENGLISH

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([ENGLISH] * 20), model_writer=file, vocab_size=90, hard_vocab_limit=False,
            minloglevel=2, **ids,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "kind", "file", "prompt"),
    [
        ("mt5", "T5Tokenizer", "spiece.model", "summarize: They meet on Friday...</s>"),
        ("mbart", "MBartTokenizer", "sentencepiece.bpe.model", "They meet on Friday<unk></s>en_XX"),
        ("mbart50", "MBart50Tokenizer", "sentencepiece.bpe.model", "en_XX They meet on Friday...</s>"),
        ("pegasus", "PegasusTokenizer", "spiece.model", "They meet on Friday...</s>"),
    ],
)
def test_a_tokenizer_may_come_as_sentencepieces_file_alone(
    family: str, kind: str, file: str, prompt: str, tmp_path: Path
):
    import json

    from transformers import AutoTokenizer

    ids = {} if family.startswith("mbart") else {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece_file(tmp_path / file, **ids)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family.removesuffix("50")}))
    FAMILIES[family][1](AutoTokenizer.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    model = base(tmp_path)
    row = model.encode("They meet\non Friday…", "They meet.", 90)

    assert model.tokenizer.decode(row.prompt_ids) == prompt
    assert model.loss_sum([row]).isfinite()


@pytest.mark.parametrize("family", ["umt5", "longt5-local"])
def test_sentencepieces_file_alone_is_enough_where_transformers_does_not_read_it(
    family: str, folders: dict[str, Path], data: Path, tmp_path: Path
):
    import sentencepiece

    folder = tmp_path / "model"
    folder.mkdir()
    sentencepiece_file(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    from transformers import T5Tokenizer

    FAMILIES[family][1](T5Tokenizer.from_pretrained(folder)).save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    model = base(folder)
    text = "They meet\non  Friday…"

    assert model.tokenizer(text)["input_ids"] == [*pieces.encode(text), 1]
    run = tomtat.finetune(settings=small_settings(folder, data), out=tmp_path / "run")
    save_merged(run.trained_path, tmp_path / "merged")
    source = "They meet on Friday."
    assert tomtat.Summarizer.load(tmp_path / "merged")(source) == tomtat.Summarizer.load(run)(source)


# --- languages


def vietnamese(count: int) -> list[dict[str, Any]]:
    return [
        {"dialogue": f"Họp dời sang thứ sáu lúc {n} giờ.", "summary": f"Dời họp đến {n} giờ."} for n in range(count)
    ]


def test_mbart_is_told_the_languages_that_training_saw(folders: dict[str, Path], tmp_path: Path):
    notes = Notes()
    data = write_jsonl(tmp_path / "vi.jsonl", vietnamese(6))
    settings = small_settings(folders["mbart"], data) | {"train.epochs": 1}
    run = tomtat.finetune(settings=settings, out=tmp_path / "run", progress=notes)
    model, info = load_trained(run.trained_path, "cpu", "fp32")
    names = model.tokenizer.convert_ids_to_tokens
    save_merged(run.trained_path, tmp_path / "merged")
    from transformers import GenerationConfig

    assert any("texts are 'vi' and summaries 'vi'" in line for line in notes.lines)
    assert (info.prompt.language, info.prompt.summary_language) == ("vi", "vi")
    assert names(model.encode("Họp", None, 50).prompt_ids)[-2:] == ["</s>", "vi_VN"]
    assert names([model.decoder_start]) == ["vi_VN"]
    assert names([GenerationConfig.from_pretrained(tmp_path / "merged").decoder_start_token_id]) == ["vi_VN"]


def test_mbart50_may_write_another_language_than_it_reads(folders: dict[str, Path]):
    model = base(folders["mbart50"], language="de", summary_language="fr")
    row = model.encode("They", "meet", 50)
    [ids] = model.generate_ids([row], Decoding(5))
    names = model.tokenizer.convert_ids_to_tokens

    assert (names(row.prompt_ids)[0], names(row.target_ids)[0]) == ("de_DE", "fr_XX")
    assert names(ids)[0] == "fr_XX"


def test_a_language_without_a_code_is_refused_with_those_there_are(
    folders: dict[str, Path], data: Path, tmp_path: Path
):
    settings = small_settings(folders["mbart"], data) | {"prompt.language": "sw"}
    with pytest.raises(ConfigError, match=r"prompt.language = 'sw': .* knows ar, cs, .*vi, zh"):
        tomtat.finetune(settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- positions


def test_texts_beyond_the_positions_are_cut_and_that_is_told(folders: dict[str, Path], tmp_path: Path):
    notes = Notes()
    values = [row | {"dialogue": row["dialogue"] * 20} for row in rows(6)]
    settings = small_settings(folders["pegasus"], write_jsonl(tmp_path / "data.jsonl", values)) | {"train.epochs": 1}
    run = tomtat.finetune(settings=settings, out=tmp_path / "run", progress=notes)
    summarizer = tomtat.Summarizer.load(run)

    assert any("has 128 positions: of a text it reads 127 tokens at most, not the 512" in line for line in notes.lines)
    assert any("6 of 6 training texts are longer than 127 tokens" in line for line in notes.lines)
    assert summarizer.max_source_tokens == 127
    summarizer(values[0]["dialogue"])  # by pieces of that length
    assert tomtat.Summarizer.load(folders["pegasus"]).max_source_tokens == 127


def test_a_summary_without_places_is_refused_before_training(folders: dict[str, Path], tmp_path: Path):
    values = [*rows(3), {"id": "long", "dialogue": "They meet.", "summary": "room four " * 100}]
    settings = small_settings(folders["pegasus"], write_jsonl(tmp_path / "data.jsonl", values))
    with pytest.raises(DataError, match=r"row 'long': its summary has \d+ tokens, and .* has 128 positions"):
        tomtat.finetune(settings=settings, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_chat_models_prompt_and_summary_share_its_positions(folders: dict[str, Path]):
    model = base(folders["gemma"])
    model.positions = type(model.positions)(source=120)
    row = model.encode("room four " * 100, "They meet.", 500)

    assert row.source_was_cut
    assert len(row) <= 120
    assert model.source_room(20) == 120 - 20 - model._framing_tokens


# --- what can't be had


def test_a_family_that_transformers_lacks_is_named(folders: dict[str, Path], tmp_path: Path):
    import json
    import shutil

    folder = shutil.copytree(folders["bart"], tmp_path / "gone")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "xlm-prophetnet"}))
    with pytest.raises(
        ModelError, match=r"of the family 'xlm-prophetnet', which Transformers 5\.\d+\.\d+ does not have"
    ):
        base(folder)


# --- CTranslate2

CONVERTED = ["t5", "mt5", "umt5", "bart", "mbart", "mbart50", "pegasus", "qwen2", "qwen3", "gemma"]


@pytest.mark.parametrize("family", FAMILIES)
def test_ctranslate2_says_the_same_or_is_refused_with_the_reason(family: str, folders: dict[str, Path], tmp_path: Path):
    pytest.importorskip("ctranslate2")
    from tomtat.engines.ctranslate2_engine import CTranslate2Engine
    from tomtat.models.conversion import convert_to_ctranslate2
    from tomtat.models.loading import without_network

    if family not in CONVERTED:
        with pytest.raises(ModelError, match=r"CTranslate2.*For(CausalLM|ConditionalGeneration).*--to merged"):
            convert_to_ctranslate2(folders[family], tmp_path / "converted")
        assert not (tmp_path / "converted").exists()
        return
    model = base(folders[family])
    convert_to_ctranslate2(folders[family], tmp_path / "converted")
    bare = without_network(tmp_path / "converted", None, model.is_encoder_decoder)
    if family.startswith("mbart"):
        model, bare = (one.with_prompt(one.prompt.__class__("{text}", language="vi")) for one in (model, bare))
    encoded = [model.encode(text, None, 90) for text in TEXTS]

    assert [bare.encode(text, None, 90) for text in TEXTS] == encoded
    found = CTranslate2Engine(bare, tmp_path / "converted").candidates(encoded, Decoding(12))
    ours = TorchEngine(model).candidates(encoded, Decoding(12))
    assert [(row[0].text, row[0].new_tokens) for row in found] == [(row[0].text, row[0].new_tokens) for row in ours]
