"""A run, an adapter or a model by its name, behind the engine asked for."""

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tomtat.assets import cache_directory
from tomtat.config import LOOKUP_TOKENS, ModelSettings, PromptSettings
from tomtat.engines.base import Engine
from tomtat.engines.torch_engine import TorchEngine
from tomtat.errors import ConfigError
from tomtat.files import sha256_of
from tomtat.models import Decoding, Limits, LongInputs, SummarizerModel, load_base, load_trained, packed
from tomtat.models.int8 import few_tokens, quantize
from tomtat.models.loading import TRAINED_FILE, TrainedInfo, place, without_network
from tomtat.models.sources import CONVERTED, resolve
from tomtat.models.switching import Adapters
from tomtat.progress import Progress
from tomtat.run_folder import RunFolder

ENGINES = ("torch", "torch-int8", "ctranslate2", "ctranslate2-float32", "auto")

UNTUNED_NEW_TOKENS = 128
"""Limit for a model nobody has fine-tuned, whose data therefore says nothing about lengths."""

UNTUNED_SOURCE_TOKENS = 1024


@dataclass(frozen=True)
class Opened:
    engine: Engine
    decoding: Decoding
    max_source_tokens: int
    limits: Limits
    long_inputs: LongInputs


@dataclass(frozen=True)
class Place:
    """Where weights come from: a folder that a run made, or an untuned model's name."""

    path: str
    device: str
    precision: str
    base: str | None
    batch_tokens: int = 8192
    lookup_tokens: int = LOOKUP_TOKENS

    @property
    def trained(self) -> Path | None:
        folder = Path(self.path)
        return folder if (folder / TRAINED_FILE).is_file() else None

    @property
    def is_converted(self) -> bool:
        """What `tomtat export --to ctranslate2` made: one engine runs it, and its weights are in no other form."""
        return self.trained is not None and (self.trained / CONVERTED).is_file()

    def info(self) -> TrainedInfo | None:
        return TrainedInfo.load(self.trained) if self.trained else None

    def load(self, precision: str | None = None) -> SummarizerModel:
        """With the adapter folded into the weights."""
        precision = precision or self.precision
        if self.trained:
            return load_trained(self.trained, self.device, precision, self.base, fold=True)[0]
        model = load_base(ModelSettings(name=self.path), PromptSettings())
        place(model, ModelSettings.model_construct(device=self.device, precision=precision))
        return model

    @property
    def is_encoder_decoder(self) -> bool:
        """As the whole model's own config says."""
        from transformers import AutoConfig

        has_adapter = self.trained and (self.trained / "adapter_config.json").is_file()
        info = self.info()
        if has_adapter and info:
            folder = resolve(self.base or str(info.base["name"]), info.base["revision"]).path
        else:
            folder = self.trained or resolve(self.path).path
        return bool(AutoConfig.from_pretrained(folder, trust_remote_code=False).is_encoder_decoder)

    def fingerprint(self) -> str:
        """Changes with the weights: of the trained files, and of the base they were trained on."""
        if not self.trained:
            return resolve(self.path).sha256
        weights = sorted([*self.trained.glob("*.safetensors"), *self.trained.glob(CONVERTED)])
        base = json.dumps(TrainedInfo.load(self.trained).base, sort_keys=True)
        config = self.trained / "adapter_config.json"
        files = [*weights, config] if config.is_file() else weights
        return hashlib.sha256(f"{sha256_of(*files)} {base} {self.base}".encode()).hexdigest()


def open_engine(
    path: str, engine: str, device: str, precision: str | None, base: str | None, progress: Progress | None = None
) -> Opened:
    """`engine` is one of ENGINES; `auto` probes once per model and machine.

    A folder that was exported for CTranslate2 is run by it, whether `torch` is asked for or nothing.
    """
    progress = progress or Progress()
    if engine not in ENGINES:
        raise ConfigError(f"{engine!r} is no engine. Take {', '.join(ENGINES)}.")
    found = place_of(path, device, precision, base)
    info = found.info()
    if engine == "auto":
        from tomtat.engines.probe import fastest

        engine = fastest(found, progress)
    elif found.is_converted:
        progress.note("engine: ctranslate2, which this folder was exported for")
    return asked_as_trained(make_engine(engine, found), info)


def asked_as_trained(engine: Engine, info: TrainedInfo | None) -> Opened:
    """An engine with what travels with its adapter, or what holds for a model that nobody has fine-tuned."""
    if info is None:
        room = engine.model.source_room(UNTUNED_NEW_TOKENS) or UNTUNED_SOURCE_TOKENS
        limit = min(UNTUNED_SOURCE_TOKENS, room)
        return Opened(engine, Decoding(UNTUNED_NEW_TOKENS), limit, Limits(), "tree")
    return Opened(engine, info.decoding, info.max_source_tokens, info.limits, info.long_inputs)


def place_of(path: str, device: str = "auto", precision: str | None = None, base: str | None = None) -> Place:
    if (Path(path) / "config.toml").is_file():
        run = RunFolder.open(path)
        config = run.config
        trained = str(run.trained_path)
        generate = config.generate
        precision = precision or config.model.precision
        return Place(trained, device, precision, base, generate.batch_tokens, generate.lookup_tokens)
    return Place(path, device, precision or "auto", base)


def make_engine(engine: str, where: Place) -> Engine:
    if where.is_converted:
        return _converted(engine, where)
    if engine == "torch":
        model = where.load()
        if model.device.type == "cpu" and packed.pays_here(model.dtype):
            packed.pack(model.network)
        return TorchEngine(model, where.batch_tokens, lookup_tokens=where.lookup_tokens)
    if engine == "torch-int8":
        if where.device not in ("auto", "cpu"):
            raise ConfigError(f"--engine torch-int8 runs on the CPU, not on {where.device}.")
        model = replace(where, device="cpu").load("fp32")
        quantize(model.network)
        # The adapter is in the rounded weights for good.
        model.peft, model.adapters = None, Adapters(model.network, None)
        made = TorchEngine(model, where.batch_tokens, "torch-int8", where.lookup_tokens)
        made.most_lookup_tokens = few_tokens()
        return made
    return _ctranslate2(where, "float32" if engine.endswith("float32") else "int8")


def _converted(engine: str, where: Place) -> Engine:
    if engine not in ("torch", "ctranslate2"):
        raise ConfigError(
            f"{where.path} was exported for CTranslate2 and has no weights for --engine {engine}. Leave --engine out, "
            "or name the run it was exported from."
        )
    return _run_by_ctranslate2(Path(where.path), where)


def _ctranslate2(where: Place, quantization: str) -> Engine:
    """Merged and converted on the first use; what comes out is kept in the cache under the weights' own hash."""
    from filelock import FileLock

    from tomtat.models.conversion import convert_to_ctranslate2, require_ctranslate2
    from tomtat.models.merging import save_merged

    require_ctranslate2()
    folder = cache_directory() / "ctranslate2" / f"{where.fingerprint()[:32]}-{quantization}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not (folder / "model.bin").is_file():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="merge-") as temporary:
                merged = Path(temporary) / "merged"
                if where.trained:
                    save_merged(where.trained, merged, where.base)
                else:
                    merged = resolve(where.path).path
                convert_to_ctranslate2(merged, folder, quantization)
    return _run_by_ctranslate2(folder, where)


def _run_by_ctranslate2(folder: Path, where: Place) -> Engine:
    from tomtat.models.conversion import require_ctranslate2

    require_ctranslate2()
    from tomtat.engines.ctranslate2_engine import CTranslate2Engine

    model = without_network(folder, where.info(), where.is_encoder_decoder)
    return CTranslate2Engine(model, folder, where.batch_tokens)
