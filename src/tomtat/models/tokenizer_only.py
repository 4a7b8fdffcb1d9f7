"""A model's tokenizer and prompt without its weights: enough to count what training would read."""

from pathlib import Path

from tomtat.config import ModelSettings, PromptSettings
from tomtat.errors import ModelError
from tomtat.models import embedded
from tomtat.models.base import SummarizerModel
from tomtat.models.families import default_prompt
from tomtat.models.loading import without_network
from tomtat.models.sources import HUB_FILES, resolve
from tomtat.quiet import quiet_transformers


def open_tokenizer(settings: ModelSettings, prompt: PromptSettings, fetch: bool) -> SummarizerModel | None:
    """A model that counts and encodes and can do nothing else. None where its files are not here and `fetch` is false.

    Raises: ModelError, where the name is of no model or its files are damaged.
    """
    from transformers import AutoConfig

    folder = resolve(settings.name, settings.revision).path if fetch else _here(settings)
    if folder is None:
        return None
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model = without_network(folder, None, bool(config.is_encoder_decoder))
    except Exception as error:
        # A damaged folder raises nearly anything.
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The tokenizer of {settings.name} can't be loaded: {type(error).__name__}: {reason}"
        ) from error
    return model.with_prompt(default_prompt(prompt, config.model_type, bool(config.is_encoder_decoder)))


def _here(settings: ModelSettings) -> Path | None:
    """The model's folder, where that takes no network."""
    if settings.name.lower() == embedded.NAME:
        return embedded.cached_model()
    folder = Path(settings.name).expanduser()
    if folder.exists() or settings.name.startswith((".", "/", "~")):
        return resolve(settings.name).path
    return _hub_cache(settings)


def _hub_cache(settings: ModelSettings) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        path = snapshot_download(
            settings.name, revision=settings.revision, allow_patterns=HUB_FILES, local_files_only=True
        )
    except (OSError, ValueError, HFValidationError):
        return None
    return Path(path) if (Path(path) / "config.json").is_file() else None
