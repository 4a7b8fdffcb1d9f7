"""How to get a summarizer, here or on another machine."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tomtat.files import sha256_of
from tomtat.models.loading import TRAINED_FILE, TrainedInfo
from tomtat.models.sources import CONVERTED, resolve
from tomtat.progress import Progress
from tomtat.run_folder import RunFolder
from tomtat.summarizer import Summarizer


@dataclass(frozen=True)
class SummarizerSettings:
    model: str
    """A run folder, a folder that a run made, or an untuned model's name."""
    device: str = "auto"
    base: str | None = None
    """Where the adapter's base model lies, if not where it was trained."""
    engine: str = "torch"
    generate: dict[str, Any] = field(default_factory=dict)
    """What is asked for instead of the model's own [generate] settings, such as {"max_words": 30}."""
    precision: str | None = None
    """`fp32` or `bf16`; by default as the run was trained, else what is measured to pay where it is loaded: workers on
    different machines may then round differently."""

    def load(self, progress: Progress | None = None) -> Summarizer:
        summarizer = Summarizer.load(
            self.model, device=self.device, precision=self.precision, base=self.base, engine=self.engine,
            progress=progress,
        )  # fmt: skip
        summarizer.ask_for(self.generate)
        return summarizer

    def absolute(self) -> "SummarizerSettings":
        """The same for a process that runs in another folder."""
        return replace(self, model=_absolute(self.model), base=self.base and _absolute(self.base))

    def identity(self) -> dict[str, Any]:
        """What must be the same for the same summaries. Devices and places don't count, weights and limits do."""
        return {**self._weights(), "engine": self.engine, **self.generate}

    def _weights(self) -> dict[str, str | None]:
        folder = Path(self.model)
        if (folder / "config.toml").is_file():
            folder = RunFolder.open(folder).trained_path
        if not (folder / TRAINED_FILE).is_file():
            return {"model": resolve(self.model).sha256}
        # The prompt and the limits of decoding stand in the trained file.
        weights = sorted([*folder.glob("*.safetensors"), *folder.glob(CONVERTED)])
        trained = sha256_of(*weights, folder / TRAINED_FILE)
        base = resolve(self.base).sha256 if self.base else TrainedInfo.load(folder).base["sha256"]
        return {"model": trained, "base model": base}


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
