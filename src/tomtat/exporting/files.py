"""Which files of a trained folder leave the machine."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from tomtat.errors import ModelError
from tomtat.evaluation.card import card_text
from tomtat.files import write_json
from tomtat.models.loading import TRAINED_FILE, TrainedInfo
from tomtat.models.sources import hub_id
from tomtat.run_folder import RunFolder

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", TRAINED_FILE)
MODEL_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.model",
    "*.jinja",
    "vocab.txt",
    "merges.txt",
)


def require_no_outside_links(folder: Path) -> None:
    """A folder from a stranger may hold a link to a private file, which a copy or an upload would publish."""
    place = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(place):
            raise ModelError(
                f"{path} is a link to a place outside its folder, so nothing of that folder is copied. If you trust "
                "it, put the file itself there: cp -rL makes such a copy of a folder."
            )


def files_to_share(folder: Path) -> list[Path]:
    """The files of an adapter or a whole model that others need: no code, no pickles, nothing we do not know."""
    if (folder / "adapter_config.json").is_file():
        found = [folder / name for name in ADAPTER_FILES]
        if missing := [path.name for path in found if not path.is_file()]:
            raise ModelError(
                f"{folder} lacks {', '.join(missing)}. Adapters are shared as safetensors with what tomtat wrote."
            )
        return found
    return sorted({path for pattern in MODEL_PATTERNS for path in folder.glob(pattern) if path.is_file()})


def write_shared(trained: Path, run: RunFolder | None, folder: Path, base_id: str | None = None) -> None:
    """Copy what others need of a trained folder into `folder`, with the model card and the base's hub id.

    `base_id` is the base's hub id where the run was trained from a local folder.
    """
    for path in files_to_share(trained):
        shutil.copyfile(path, folder / path.name)
    info = TrainedInfo.load(folder)
    base = info.base | ({"name": base_id, "revision": None} if base_id else {})
    known = hub_id(str(base["name"]))
    replace(info, base=base | {"hub_id": known}).save(folder)
    config = folder / "adapter_config.json"
    if known and config.is_file():
        # Training knew the base by its place on that machine; plain PEFT elsewhere asks the hub.
        write_json(config, json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": known})
    card = trained / "README.md"
    text = card_text(run, base_id) if run else card.read_text(encoding="utf-8") if card.is_file() else None
    if text:
        (folder / "README.md").write_text(text, encoding="utf-8")
