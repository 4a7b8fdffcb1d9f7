"""What lies in the caches of this machine: tomtat's own and the hub's, how much room it takes, when it was last read.

Only what is found by looking into the caches can be removed, so nothing outside them ever is.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tomtat.assets import ASSETS, cache_directory

Place = Literal["tomtat", "hub"]

EMBEDDED = "smollm2-135m-instruct"
MADE_HERE = {
    "ctranslate2": "models converted for the engine ctranslate2; made again when needed",
    "states": "states of frozen layers from training; made again when needed",
}


@dataclass(frozen=True)
class Cached:
    """One thing in a cache."""

    name: str
    """By which it is pulled and removed."""
    place: Place
    what: str
    bytes: int
    last_used: float
    """Seconds since the epoch, as far as the file system notes when files are read."""
    path: Path


def hub_directory() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached() -> list[Cached]:
    """All of it, by place and name."""
    return [*_ours(), *_hub()]


def _ours() -> Iterator[Cached]:
    root = cache_directory()
    for asset in ASSETS.values():
        if asset.folder.is_dir():
            yield _folder(asset.name, asset.about, asset.folder)
    for folder in sorted(root.glob("models/*-v*")):
        name = re.sub(r"-v\d+$", "", folder.name)
        if folder.is_dir():
            yield _folder(name, "the embedded model" if name == EMBEDDED else "a model from pip", folder)
    for name, what in MADE_HERE.items():
        if (root / name).is_dir():
            yield _folder(name, what, root / name)


def _folder(name: str, what: str, path: Path) -> Cached:
    stats = [file.lstat() for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    size = sum(stat.st_size for stat in stats)
    used = max((max(stat.st_atime, stat.st_mtime) for stat in stats), default=path.lstat().st_mtime)
    return Cached(name, "tomtat", what, size, used, path)


def _hub() -> Iterator[Cached]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir(hub_directory())
    except CacheNotFound:
        return
    for repo in sorted(found.repos, key=lambda repo: repo.repo_id.lower()):
        if repo.repo_type == "model":
            count = len(repo.revisions)
            what = "1 revision" if count == 1 else f"{count} revisions"
            yield Cached(repo.repo_id, "hub", what, repo.size_on_disk, repo.last_accessed, Path(repo.repo_path))


def remove(found: Cached) -> int:
    """Remove it; the bytes that became free. While another process pulls it, this waits."""
    if found.path.is_symlink():
        found.path.unlink()  # where it leads to is somebody else's
        return 0
    before = _size(found.path)
    if found.place == "hub":
        _remove_of_hub(found.path)
    else:
        _remove_of_ours(found.path)
    return before - _size(found.path)


def _remove_of_ours(path: Path) -> None:
    from filelock import FileLock

    lock = path.with_name(path.name + ".lock")
    with FileLock(lock):
        # Under another name first: a kill in the midst leaves nothing that looks whole.
        dying = path.with_name(path.name + ".removed")
        shutil.rmtree(dying, ignore_errors=True)
        path.rename(dying)
        shutil.rmtree(dying)
        lock.unlink(missing_ok=True)


def _remove_of_hub(repo: Path) -> None:
    # Not by the hub's `delete_revisions`: it looks for commits in all repos, and takes any that has one of that name.
    # What points to contents goes before them: a kill in the midst leaves nothing that looks whole.
    for name in ("refs", "snapshots"):
        if (repo / name).is_dir():
            shutil.rmtree(repo / name)
    shutil.rmtree(repo)


def _size(path: Path) -> int:
    if path.is_symlink() or not path.exists():
        return 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
