"""A run in another tool's format, kept only if it still says what the run says."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomtat.errors import ConfigError, ModelError, RunError
from tomtat.exporting.check import Check, check, require_same_tokens
from tomtat.exporting.files import require_no_outside_links, write_shared
from tomtat.exporting.runners import Runner, ctranslate2_runner, gguf_runner, onnx_runner, torch_runner
from tomtat.files import replace_folder
from tomtat.models import SummarizerModel, load_trained
from tomtat.models.loading import TRAINED_FILE
from tomtat.models.merging import save_merged
from tomtat.models.sources import require_plain
from tomtat.progress import Progress
from tomtat.quiet import quiet_transformers
from tomtat.run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """What is exported, and where there is room to work."""

    trained: Path
    run: RunFolder | None
    """None for a trained folder that came without its run."""
    base: str | None
    work: Path

    def merged(self) -> Path:
        folder = self.work / "merged"
        save_merged(self.trained, folder, self.base)
        return folder


@dataclass(frozen=True)
class Target:
    """A format: how it is written, how it is run for the check, and which number formats it has."""

    write: Callable[[Job, Path, str], None]
    runner: Callable[[Job, Path, SummarizerModel], Runner]
    quantizations: tuple[str, ...] = ("float32",)
    """The first is the default."""
    lossless: tuple[str, ...] = ("float32",)


@dataclass(frozen=True)
class Export:
    path: Path
    to: str
    quantization: str
    check: Check
    bytes: int


def _write_merged(job: Job, folder: Path, _: str) -> None:
    save_merged(job.trained, folder, job.base)


def _write_adapter(job: Job, folder: Path, _: str) -> None:
    if not (job.trained / "adapter_config.json").is_file():
        raise RunError(f"{job.trained} is a whole model and has no adapter. Export it --to merged.")
    folder.mkdir()
    write_shared(job.trained, job.run, folder)


def _write_ctranslate2(job: Job, folder: Path, quantization: str) -> None:
    from tomtat.models.conversion import convert_to_ctranslate2

    convert_to_ctranslate2(job.merged(), folder, quantization)


def _write_onnx(job: Job, folder: Path, _: str) -> None:
    from tomtat.models.onnx_files import write_onnx

    write_onnx(job.merged(), folder)
    shutil.copyfile(job.trained / TRAINED_FILE, folder / TRAINED_FILE)


def _write_gguf(job: Job, folder: Path, quantization: str) -> None:
    from tomtat.models.gguf_file import write_gguf

    folder.mkdir()
    write_gguf(job.merged(), folder / _gguf_name(quantization), quantization)
    shutil.copyfile(job.trained / TRAINED_FILE, folder / TRAINED_FILE)


def _gguf_name(quantization: str) -> str:
    return f"model-{quantization}.gguf"


def _run_with_torch(job: Job, folder: Path, model: SummarizerModel) -> Runner:
    exported, _ = load_trained(folder, "cpu", "fp32", job.base)
    require_same_tokens(model, exported.tokenizer, folder.name)
    return torch_runner(exported)


def _run_with_ctranslate2(job: Job, folder: Path, model: SummarizerModel) -> Runner:
    require_same_tokens(model, _tokenizer(folder), "the CTranslate2 model")
    return ctranslate2_runner(folder, model)


def _run_with_onnx(job: Job, folder: Path, model: SummarizerModel) -> Runner:
    require_same_tokens(model, _tokenizer(folder), "the ONNX model")
    return onnx_runner(folder, model)


def _run_with_gguf(job: Job, folder: Path, model: SummarizerModel) -> Runner:
    [file] = folder.glob("*.gguf")
    require_same_tokens(model, _tokenizer(folder, gguf_file=file.name), "the GGUF file")
    return gguf_runner(file, model)


def _tokenizer(folder: Path, **options: str) -> Any:
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)


TARGETS = {
    "merged": Target(_write_merged, _run_with_torch),
    "adapter": Target(_write_adapter, _run_with_torch),
    "ctranslate2": Target(
        _write_ctranslate2, _run_with_ctranslate2, ("float32", "bfloat16", "float16", "int16", "int8")
    ),
    "onnx": Target(_write_onnx, _run_with_onnx),
    "gguf": Target(_write_gguf, _run_with_gguf, ("f16", "q8_0", "f32"), ("f32",)),
}


def export(
    run: Path | str | RunFolder,
    to: str,
    out: Path | str | None = None,
    quantization: str | None = None,
    base: str | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write a run, or an adapter or model folder that a run made, as `to`: a key of TARGETS.

    `out` must not exist; by default it is `exports/` in the run folder. `base` says where the adapter's base model
    lies here. Where the format loses nothing, a model that gives other summaries is an error and nothing is kept.
    """
    progress = progress or Progress()
    trained, folder = find_trained(run)
    target = TARGETS.get(to)
    if target is None:
        raise ConfigError(f"There is no export to {to!r}. Choose {', '.join(TARGETS)}.")
    quantization = quantization or target.quantizations[0]
    if quantization not in target.quantizations:
        raise ConfigError(f"{to} has no {quantization!r} here. Choose {', '.join(target.quantizations)}.")
    suffix = f"-{quantization}" if len(target.quantizations) > 1 else ""
    path = Path(out) if out else (folder.path if folder else trained.parent) / "exports" / f"{to}{suffix}"
    if path.exists():
        raise ModelError(f"{path} exists already. Remove it, or choose another place with --out.")
    require_no_outside_links(trained)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ModelError(f"{path} lies below a file, not in a folder. Choose another place with --out.") from None
    with replace_folder(path) as new:
        # All that is in between lies inside `new` too, so that a kill leaves nothing that the next export won't remove.
        made = new / "made"
        job = Job(trained, folder, base, new)
        progress.note(f"writing {to}")
        target.write(job, made, quantization)
        model, info = load_trained(trained, "cpu", "fp32", base)
        runner = target.runner(job, made, model)
        found = check(model, runner, info.max_source_tokens, info.decoding.max_new_tokens, progress)
        if quantization in target.lossless:
            _require_same(found, to)
        _keep_only(made, new)
        size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file())
    return Export(path, to, quantization, found, size)


def find_trained(run: Path | str | RunFolder) -> tuple[Path, RunFolder | None]:
    """The folder with what was trained, and its run where there is one."""
    path = run.path if isinstance(run, RunFolder) else Path(run)
    if (path / TRAINED_FILE).is_file() and not (path / "config.toml").is_file():
        require_plain(path)
        return path, None
    folder = RunFolder.open(path)
    return folder.trained_path, folder


def _require_same(found: Check, to: str) -> None:
    if found.first_difference is not None:
        ours, theirs = found.first_difference
        raise ModelError(
            f"The model exported to {to} gives other summaries than the run ({found}), so it is not kept. "
            f"First difference: {ours!r} became {theirs!r}. Please report this; --to merged is the safest format."
        )


def _keep_only(made: Path, folder: Path) -> None:
    for other in folder.iterdir():
        if other != made:
            shutil.rmtree(other)
    for file in made.iterdir():
        file.rename(folder / file.name)
    made.rmdir()
