"""Models into memory: a base as it comes, or a base with what a run trained."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tomtat.config import ModelSettings, PromptSettings
from tomtat.errors import ModelError, RunError
from tomtat.files import write_json
from tomtat.models.base import SummarizerModel
from tomtat.models.causal import CausalModel
from tomtat.models.decoding import NO_LIMITS, Decoding, Limits, LongInputs
from tomtat.models.families import default_prompt, positions_of
from tomtat.models.precision import cast_parameters, choose_device, choose_dtype
from tomtat.models.seq2seq import RELATIVE, Seq2SeqModel
from tomtat.models.sources import ModelSource, require_plain, resolve
from tomtat.prompts import Prompt
from tomtat.quiet import quiet_peft, quiet_transformers

TRAINED_FILE = "tomtat.json"


@dataclass(frozen=True)
class TrainedInfo:
    """What must travel with an adapter, so that it is asked elsewhere as it was trained here."""

    method: str
    base: dict[str, str | None]
    prompt: Prompt
    max_source_tokens: int
    decoding: Decoding
    limits: Limits = NO_LIMITS
    long_inputs: LongInputs = "tree"

    def save(self, folder: Path) -> None:
        write_json(folder / TRAINED_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "TrainedInfo":
        try:
            value = json.loads((folder / TRAINED_FILE).read_text(encoding="utf-8"))
            return cls(
                method=value["method"],
                base=value["base"],
                prompt=Prompt(**value["prompt"]),
                max_source_tokens=value["max_source_tokens"],
                decoding=Decoding(**value["decoding"]),
                limits=Limits(**value.get("limits", {})),
                long_inputs=value.get("long_inputs", "tree"),
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(
                f"{folder}/{TRAINED_FILE} is missing or damaged, so nobody knows how to ask this model."
            ) from None


def load_base(settings: ModelSettings, prompt: PromptSettings) -> SummarizerModel:
    """The untuned model in fp32, ready for adapters; `place` brings it to its device and dtype."""
    source = resolve(settings.name, settings.revision)
    network, tokenizer = load_plain(source.path)
    return _wrap(network, tokenizer, _default_prompt(prompt, network.config), source)


def place(model: SummarizerModel, settings: ModelSettings) -> None:
    """Move to the device and dtype that the settings ask for, or that pay on this machine."""
    device = choose_device(settings.device)
    cast_parameters(model.network, choose_dtype(settings.precision, device, model.model_type))
    model.network.to(device)


def load_trained(
    folder: Path, device: str = "auto", precision: str = "auto", base: str | None = None, fold: bool = False
) -> tuple[SummarizerModel, TrainedInfo]:
    """What a run trained: a folder with an adapter, or with a whole model.

    `base` names the base model's place here. With `fold` the adapter's update is added to the weights, so that it costs
    nothing per token: after they are cast, as each adapter chosen later is, so that all orders give the same weights.
    """
    info = TrainedInfo.load(folder)
    model = (
        _load_adapter(folder, info, base) if (folder / "adapter_config.json").is_file() else _load_whole(folder, info)
    )
    place(model, ModelSettings.model_construct(device=device, precision=precision))
    if fold:
        model.adapters.fold()
    model.network.eval()
    return model, info


def add_adapter(model: SummarizerModel, name: str, folder: Path) -> None:
    """Another adapter over a base in memory, which may be an untuned one. What is at work stays at work.

    Raises: RunError.
    """
    _require_plain_adapter(folder)
    if model.adapters.peft is None:
        model.adapters.begin(name, folder)
    else:
        model.adapters.add(name, folder)


def load_to_train_on(folder: Path) -> SummarizerModel:
    """What a run trained, in fp32 on the CPU. What came with an adapter is trainable; of a whole model nothing yet."""
    info = TrainedInfo.load(folder)
    if (folder / "adapter_config.json").is_file():
        return _load_adapter(folder, info, None, is_trainable=True)
    model = _load_whole(folder, info)
    # Named after the base as before: what was trained twice is still a tuned form of that.
    base = {name: info.base[name] for name in ("revision", "note")}
    model.source = replace(
        model.source,
        name=str(info.base["name"]),
        sha256=str(info.base["sha256"]),
        **base,  # type: ignore[arg-type]
    )
    return model


def _load_adapter(folder: Path, info: TrainedInfo, base: str | None, is_trainable: bool = False) -> SummarizerModel:
    from peft import PeftModel

    _require_plain_adapter(folder)
    name = base or str(info.base["name"])
    try:
        source = resolve(name, info.base["revision"])
    except ModelError as error:
        raise ModelError(
            f"The adapter in {folder} needs its base model. {error} (Or name its folder with --base.)"
        ) from None
    warn_if_another_base(source, info.base)
    network, tokenizer = load_plain(source.path)
    model = _wrap(network, tokenizer, info.prompt, source)
    try:
        with quiet_peft():
            model.peft = PeftModel.from_pretrained(
                network, str(folder), autocast_adapter_dtype=False, is_trainable=is_trainable
            )
    except (RuntimeError, ValueError, OSError, TypeError, KeyError, SafetensorError) as error:
        raise RunError(
            f"The adapter in {folder} can't be loaded onto {name}: {' '.join(str(error).split())[:300]}"
        ) from None
    return model


def _require_plain_adapter(folder: Path) -> None:
    """PEFT would also read pickles, and import whatever module an adapter from a stranger names."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise RunError(
            f"{folder} has no adapter_model.safetensors. Other formats can run code when loaded and are refused; "
            "whoever made it can save it anew with model.save_pretrained(folder)."
        )
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind, imports = config["peft_type"], config.get("megatron_config")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{folder}/adapter_config.json is damaged, so the adapter can't be loaded.") from None
    if kind != "LORA" or imports:
        what = "names a Megatron module to import" if kind == "LORA" else f"is of PEFT's kind {kind}"
        raise RunError(f"The adapter in {folder} {what}; tomtat loads plain LoRA adapters only.")


def warn_if_another_base(source: ModelSource, trained_on: Mapping[str, Any]) -> None:
    if source.sha256 != trained_on["sha256"]:
        warnings.warn(
            f"The base model {source.name} differs from the one that was trained on (SHA-256 {source.sha256[:12]} "
            f"here, {str(trained_on['sha256'])[:12]} there): summaries may differ.",
            stacklevel=2,
        )


def _load_whole(folder: Path, info: TrainedInfo) -> SummarizerModel:
    require_plain(folder)
    network, tokenizer = load_plain(folder)
    return _wrap(network, tokenizer, info.prompt, resolve(str(folder)))


def without_network(folder: Path, info: TrainedInfo | None, is_encoder_decoder: bool) -> SummarizerModel:
    """Tokenizer and prompt alone, for engines that have the weights in a form of their own."""
    with quiet_transformers():
        tokenizer = _tokenizer(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    prompt = info.prompt if info else default_prompt(PromptSettings(), str(config["model_type"]), is_encoder_decoder)
    kind = Seq2SeqModel if is_encoder_decoder else CausalModel
    model = kind(None, tokenizer, prompt, ModelSource(str(folder), folder, ""))
    model.positions = positions_of(config, is_encoder_decoder)
    return model


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer, T5Tokenizer

    has_pieces_only = (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file()
    if has_pieces_only and _family(folder) in RELATIVE:
        # AutoTokenizer gives UMT5 and LongT5 a class that reads no SentencePiece, whatever tokenizer_config.json says.
        return T5Tokenizer.from_pretrained(folder, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _family(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")


def _default_prompt(settings: PromptSettings, config: Any) -> Prompt:
    return default_prompt(settings, str(config.model_type), bool(config.is_encoder_decoder))


def load_plain(path: Path) -> tuple[Any, Any]:
    """Network (fp32, nothing trainable) and tokenizer of a folder with a whole model; runs no code that lies there."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    _require_known_family(path)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            network = kind.from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
            )
            tokenizer = _tokenizer(path)
    except Exception as error:
        # A damaged folder raises nearly anything: OSError, ValueError, KeyError, SafetensorError, tokenizers' own.
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The model in {path} can't be loaded: {type(error).__name__}: {reason}") from error
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network, tokenizer


def _require_known_family(path: Path) -> None:
    """Transformers' own error for this advises an update only, and it drops families too."""
    from transformers import CONFIG_MAPPING, __version__

    try:
        family = _family(path)
    except (OSError, ValueError, AttributeError):
        return  # damaged: what loads it says how
    if isinstance(family, str) and family not in CONFIG_MAPPING:
        raise ModelError(
            f"The model in {path} is of the family {family!r}, which Transformers {__version__} does not have: it was "
            "dropped there, or is newer. Take a model of a family in docs/families.md."
        )


def _wrap(network: Any, tokenizer: Any, prompt: Prompt, source: ModelSource) -> SummarizerModel:
    kind = Seq2SeqModel if network.config.is_encoder_decoder else CausalModel
    return kind(network, tokenizer, prompt, source)
