"""A Transformers model as a CTranslate2 model: the fast engine on CPUs.

CTranslate2's own loaders do the work. They were written for Transformers 4, so two things are said anew here, and what
comes out is never taken on trust: its log-probabilities are held against those of the model it came from.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tomtat.errors import ModelError
from tomtat.files import replace_folder
from tomtat.models.loading import TRAINED_FILE, load_plain
from tomtat.quiet import quiet_transformers

QUANTIZATIONS = ("float32", "bfloat16", "float16", "int16", "int8")
TOLERANCE = 1e-3
"""Largest allowed difference of a token's log-probability (nats) in float32. Summing in another order moves that of
SmolLM2-135M by 2e-5; T5 logits with the wrong scale are off by several nats."""

_NORMALISATION = {
    "bart": {"normalize_before": False},
    "mbart": {"normalize_before": True},
    "pegasus": {"normalize_before": True, "normalize_embedding": False},
}

PROBES = (
    ("Nina: Monday's meeting is off, I am ill.\nOmar: Friday at 14:30, room 4?", "They meet on Friday at 14:30."),
    ("A kettle came cracked; a new one is on its way.", "The shop sends a new kettle."),
)


@dataclass(frozen=True)
class Conversion:
    """What came out of a conversion."""

    quantization: str
    largest_difference: float
    """Of a token's log-probability, in nats, from the Transformers model in fp32."""


def convert_to_ctranslate2(merged: Path, folder: Path, quantization: str = "float32") -> Conversion:
    """Turn a folder with a whole Transformers model into one that CTranslate2 loads; `folder` must not exist.

    The tokenizer, generation_config.json and tomtat.json travel along. A model whose log-probabilities in float32
    differ from the original's is refused (ModelError), and nothing is left behind. What other number formats round away
    is only told.
    """
    require_ctranslate2()
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"{quantization!r} is no quantization. Choose {', '.join(QUANTIZATIONS)}.")
    if folder.exists():
        raise ModelError(f"{folder} exists already. Choose another folder for the CTranslate2 model.")
    network, tokenizer = load_plain(merged)
    network.eval()
    probes = _probes(network, tokenizer)
    expected = [_log_probabilities(network, source, target) for source, target in probes]
    spec = _specification(network, tokenizer)
    spec.optimize(quantization=quantization)
    with replace_folder(folder) as new, quiet_transformers():
        if quantization != "float32":
            # Rounding would hide that CTranslate2 computes something else, so that is looked for without it.
            convert_to_ctranslate2(merged, new / "exact")
            shutil.rmtree(new / "exact")
        spec.save(str(new))
        network.generation_config.save_pretrained(new)
        tokenizer.save_pretrained(new)
        if (merged / TRAINED_FILE).is_file():
            shutil.copyfile(merged / TRAINED_FILE, new / TRAINED_FILE)
        try:
            scored = _ctranslate2_log_probabilities(new, network.config, tokenizer, probes)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"CTranslate2 can't run what it made of {type(network).__name__}: "
                f"{' '.join(str(error).split())[:300]}. Export it --to merged instead."
            ) from None
        difference = _largest_difference(expected, scored)
        if quantization == "float32" and not difference <= TOLERANCE:  # NaN is refused too
            raise ModelError(
                f"CTranslate2 does not compute {type(network).__name__} of {merged} as Transformers does: a token's "
                f"log-probability differs by {difference:.2g} (allowed: {TOLERANCE:g}). Export it --to merged instead."
            )
    return Conversion(quantization, difference)


def require_ctranslate2() -> None:
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        raise ModelError("CTranslate2 is not installed: pip install 'tomtat[ctranslate2]'.") from None


def _specification(network: Any, tokenizer: Any) -> Any:
    """The model in CTranslate2's own shape. Takes the network apart: some loaders free layers as they go."""
    from ctranslate2.converters.transformers import _MODEL_LOADERS

    name = type(network.config).__name__
    loader = _MODEL_LOADERS.get(name)
    if loader is None:
        raise ModelError(
            f"CTranslate2 has no converter for {type(network).__name__} ({name}). Export it --to merged, which any "
            "tool that reads Transformers models takes."
        )
    _say_as_transformers_4(network.config)
    # By which the loader knows whether a summary starts with its language (mBART-25) or goes on with it (mBART-50).
    network.config.tokenizer_class = type(tokenizer).__name__
    try:
        with torch.no_grad():
            spec = loader.get_model_spec(network)
            loader.set_config(spec.config, network, tokenizer)
            loader.set_vocabulary(spec, _vocabulary(tokenizer, network.config.vocab_size))
        # Chat tokenizers may lack a start or an unknown token; CTranslate2 takes no null for either.
        spec.config.bos_token = spec.config.bos_token or tokenizer.eos_token
        spec.config.unk_token = spec.config.unk_token or ""
        # T5's own loader leaves this out, and the engine's default is not every T5's.
        spec.config.layer_norm_epsilon = spec.config.layer_norm_epsilon or getattr(
            network.config, "layer_norm_epsilon", None
        )
        # AutoTokenizer asks the config.json beside it for this name.
        spec.config.add_attribute("model_type", network.config.model_type)
        spec.validate()
    except (AttributeError, KeyError) as error:
        raise ModelError(
            f"CTranslate2's converter for {type(network).__name__} was written for another Transformers, and misses "
            f"something in this one ({' '.join(str(error).split())[:300]}). Export it --to merged instead."
        ) from error
    except (NotImplementedError, ValueError) as error:
        raise ModelError(
            f"CTranslate2 can't convert {type(network).__name__}: {' '.join(str(error).split())[:300]} "
            "Export it --to merged instead."
        ) from error
    return spec


def _say_as_transformers_4(config: Any) -> None:
    """Settings by the names and meanings that CTranslate2's loaders expect."""
    # They read from `tie_word_embeddings` whether T5's logits are scaled. Transformers 5 sets that to True for every T5
    # and keeps what the file said as `scale_decoder_outputs`; mT5 never scales, and UMT5 always does.
    if config.model_type in ("t5", "mt5"):
        config.tie_word_embeddings = getattr(config, "scale_decoder_outputs", False)
    # Old files of these families say where they normalise; Transformers has it in its code and saves it no more.
    for name, value in _NORMALISATION.get(config.model_type, {}).items():
        if not hasattr(config, name):
            setattr(config, name, value)


def _vocabulary(tokenizer: Any, size: int) -> list[str]:
    """A name for each row of the embeddings. Matrices are padded beyond the tokenizer, and tokenizers have gaps."""
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    return [names.get(number, f"<unused-{number}>") for number in range(size)]


def _probes(network: Any, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Source and target ids; a causal model reads both as one text, so its source is empty."""
    if network.config.is_encoder_decoder:
        return [
            (tokenizer(source)["input_ids"], tokenizer(target, add_special_tokens=False)["input_ids"])
            for source, target in PROBES
        ]
    return [([], tokenizer(f"{source}\n{target}", add_special_tokens=False)["input_ids"]) for source, target in PROBES]


@torch.inference_mode()
def _log_probabilities(network: Any, source: Sequence[int], target: Sequence[int]) -> list[float]:
    """Of each target token after those before it; of a causal model's tokens from the second on."""
    ids = torch.tensor([target])
    if network.config.is_encoder_decoder:
        start = torch.tensor([[network.config.decoder_start_token_id]])
        logits = network(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.cat([start, ids[:, :-1]], dim=1), use_cache=False
        ).logits
        labels = ids
    else:
        logits, labels = network(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:]
    return _picked(logits[0], labels[0])


def _picked(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    values = torch.log_softmax(logits.float(), dim=-1).gather(-1, labels[:, None])
    return [float(value) for value in values[:, 0]]


def _ctranslate2_log_probabilities(
    folder: Path, config: Any, tokenizer: Any, probes: Sequence[tuple[list[int], list[int]]]
) -> list[list[float]]:
    import ctranslate2
    import numpy as np

    if not config.is_encoder_decoder:
        generator = ctranslate2.Generator(str(folder), device="cpu")
        return [
            _picked(
                torch.from_numpy(np.array(generator.forward_batch([target]), dtype=np.float32))[0, :-1],
                torch.tensor(target[1:]),
            )
            for _, target in probes
        ]
    translator = ctranslate2.Translator(str(folder), device="cpu")
    as_tokens = tokenizer.convert_ids_to_tokens
    # mBART-25 has a start of its own for each language, so it is given beside the target.
    start = as_tokens([config.decoder_start_token_id]) if type(tokenizer).__name__ == "MBartTokenizer" else []
    results = translator.score_batch(
        [as_tokens(source) for source, _ in probes], [[*start, *as_tokens(target)] for _, target in probes]
    )
    # It scores the end token too, which the probes leave out.
    return [result.log_probs[: len(target)] for result, (_, target) in zip(results, probes, strict=True)]


def _largest_difference(expected: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> float:
    pairs = [pair for a, b in zip(expected, found, strict=True) for pair in zip(a, b, strict=True)]
    differences = [abs(a - b) for a, b in pairs]
    return math.nan if any(map(math.isnan, differences)) else max(differences)
