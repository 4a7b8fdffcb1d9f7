"""From a model's name to a folder with its safetensors: the embedded default, a folder, or the hub."""

from dataclasses import dataclass
from pathlib import Path

from tomtat.errors import ModelError
from tomtat.files import sha256_of
from tomtat.models import embedded

# Weights only as safetensors: the older formats are pickles, which run code when loaded.
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", "vocab.txt", "merges.txt"]


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights come from, and what identifies them on another machine."""

    name: str
    """As the user wrote it; resolves to the same model elsewhere, a folder excepted."""
    path: Path
    sha256: str
    """Over its safetensors files, in the order of their names."""
    revision: str | None = None
    note: str | None = None
    is_hub: bool = False

    @property
    def peft_name(self) -> str:
        """What plain `PeftModel` and `AutoModel` load here: the hub id, else the folder."""
        return self.name if self.is_hub else str(self.path)

    def as_dict(self) -> dict[str, str | None]:
        return {"name": self.name, "sha256": self.sha256, "revision": self.revision, "note": self.note}


def hub_id(name: str) -> str | None:
    """A model's id on the hub; None for a local folder."""
    if name.lower() == embedded.NAME:
        return embedded.HUB_ID
    return None if Path(name).is_absolute() else name


def resolve(name: str, revision: str | None = None) -> ModelSource:
    if name.lower() == embedded.NAME:
        path = embedded.embedded_model()
        return ModelSource(embedded.NAME, path, _hash(path), note=embedded.NOTE)
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith((".", "/", "~")):
        return _folder(folder)
    path = _hub(name, revision)
    # The snapshot folder is named after the commit: elsewhere the same weights are asked for, not what `main` is then.
    return ModelSource(name, path, _hash(path), revision=path.name, is_hub=True)


def _folder(folder: Path) -> ModelSource:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelError(f"{folder} {what}. Name a folder with config.json and model.safetensors, or a model's name.")
    require_plain(folder)
    if not (folder / "config.json").is_file():
        hint = (
            " It is a run folder: name it as the run, not as the model." if (folder / "config.toml").is_file() else ""
        )
        raise ModelError(f"{folder} is no saved model: it has no config.json.{hint}")
    folder = folder.resolve()
    _require_safetensors(folder, str(folder))
    return ModelSource(str(folder), folder, _hash(folder))


CONVERTED = "model.bin"
"""CTranslate2's weights. Not pickles, which Transformers named pytorch_model.bin."""
_FORMATS = {
    CONVERTED: "a model for CTranslate2; only those with their tomtat.json are run, by summarize, chat and serve",
    "genai_config.json": "a model for ONNX Runtime GenAI, which tomtat does not run",
    "*.onnx": "an ONNX model, which tomtat does not run",
    "*.gguf": "a model for llama.cpp, which tomtat does not run",
}
"""What other tools' folders hold, by a file in them."""


def require_plain(folder: Path) -> None:
    """Raises: ModelError for a folder in another tool's format, such as `tomtat export` writes."""
    what = next((what for pattern, what in _FORMATS.items() if any(folder.glob(pattern))), None)
    if what and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds {what}. Name the run it was exported from, or export that --to merged.")


def _hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except HFValidationError:
        raise ModelError(
            f"{name!r} is neither a folder nor a model's name on the hub. "
            f"Try {embedded.NAME}, which needs no hub, or an id such as google/flan-t5-small."
        ) from None
    except GatedRepoError:
        raise ModelError(
            f"{name} is gated: accept its terms on its hub page and log in with `hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision!r} on the hub.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"The hub has no model {name!r} that you may read. Check the name; {embedded.NAME} needs no hub."
        ) from None
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError | FileNotFoundError):
            raise  # a full disk, for instance: nothing to do with the hub
        raise _unreachable(name) from None
    except Exception as error:
        if type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise _unreachable(name) from None
        raise
    if not (path / "config.json").is_file():
        raise ModelError(f"{name} has no config.json on the hub: it is not a Transformers model.")
    _require_safetensors(path, name)
    return path


def _unreachable(name: str) -> ModelError:
    return ModelError(
        f"There is no folder {name!r}, and the model hub can't be reached for a model of that name. "
        f"Ways out: {embedded.NAME}, which comes through pip, or the path of a run's folder, or of one that somebody "
        "saved with save_pretrained."
    )


def _require_safetensors(folder: Path, name: str) -> None:
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name} has no safetensors weights. Other formats can run code when loaded and are refused; "
            "convert it once with model.save_pretrained(folder, safe_serialization=True)."
        )


def _hash(folder: Path) -> str:
    return sha256_of(*sorted(folder.glob("*.safetensors")))
