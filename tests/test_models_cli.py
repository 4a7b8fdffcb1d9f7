"""tomtat models: what is known, what is here, fetching and removing it. The hub's cache is made on the spot."""

import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Finished
from tiny_families import save_family
from tomtat.assets import MINILM
from tomtat.caches import EMBEDDED, cached
from tomtat.errors import ModelError
from tomtat.known_models import KNOWN, hub_name, known
from tomtat.models.conversion import convert_to_ctranslate2

Tomtat = Callable[..., Finished]
COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TOMTAT_CACHE", str(tmp_path / "tomtat"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_hub(folder: Path, name: str, weights: bytes, commits: list[str] = COMMITS[:1]) -> Path:
    """A model as the hub's client keeps it: contents once, and a folder of links for each revision."""
    repo = folder / "hub" / f"models--{name.replace('/', '--')}"
    for number, commit in enumerate(commits):
        blob = repo / "blobs" / f"{number}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(weights)
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(blob)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commits[0])
    return repo


def in_ours(folder: Path, name: str, size: int) -> Path:
    place = folder / "tomtat" / name
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"x" * size)
    (place / "config.json").write_text("{}")
    return place


def test_what_is_known_agrees_with_the_libraries():
    from transformers import CONFIG_MAPPING

    for model in KNOWN:
        config = CONFIG_MAPPING[model.model_type]()
        assert bool(getattr(config, "is_encoder_decoder", False)) == (model.kind == "encoder-decoder"), model.name
        # bf16 or fp32, nothing else; Qwen3's file has its shared matrix twice.
        assert any(abs(model.megabytes / (bytes_ * model.parameters) - 1) < 0.03 for bytes_ in (2, 4)) or "Qwen3" in model.name  # fmt: skip
        assert known(model.name.lower()) is known(model.short_name) is model


TINY = {"longt5": "longt5-tglobal", "mbart": "mbart50", "gemma3_text": "gemma3", "phi3": "phi4-mini"}


@pytest.mark.parametrize("family", sorted({model.model_type for model in KNOWN}))
def test_what_is_said_of_ctranslate2_is_so(family: str, tmp_path: Path, tiny_llama: Path):
    pytest.importorskip("ctranslate2")
    folder = (
        tiny_llama if family == "llama" else save_family(TINY.get(family, family), tmp_path / "model", lively=False)
    )
    try:
        convert_to_ctranslate2(folder, tmp_path / "ct2")
        is_converted = True
    except ModelError:
        is_converted = False
    assert {model.ctranslate2 for model in KNOWN if model.model_type == family} == {is_converted}


def test_a_list_needs_no_network(tomtat: Tomtat, caches: Path, monkeypatch: pytest.MonkeyPatch):
    in_hub(caches, "google/flan-t5-small", b"x" * 3_000_000)
    in_hub(caches, "somebody/else", b"x" * 1000, COMMITS)
    in_ours(caches, f"models/{EMBEDDED}-v1", 5_000_000)
    (caches / "facebook" / "bart-base").mkdir(parents=True)

    def refuse(*_: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    shown = tomtat("models", "list").out.splitlines()

    def row(name: str) -> str:
        return next(line for line in shown if line.startswith(name))

    assert row("google/flan-t5-small").rstrip().endswith("yes")
    assert row("facebook/bart-base").rstrip().endswith("folder")
    assert row("google/flan-t5-base").rstrip().endswith("as it is")
    assert row("minilm").split()[1] == str(MINILM.megabytes)
    assert "2 revisions" in row("somebody/else")
    assert "8.0 MB" in shown[-1]
    only = tomtat("models", "list", "--cached").out
    assert "google/flan-t5-small   3.0" in only
    assert "bart" not in only


def test_one_model_is_shown(tomtat: Tomtat):
    assert "refs/pr/7" in tomtat("models", "show", "mbart-large-50").out
    assert tomtat("models", "show", "somebody/else").code == 2


def test_nothing_is_here_yet(tomtat: Tomtat):
    assert cached() == []
    assert "Nothing yet" in tomtat("models", "list", "--cached").out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tiny_t5: Path) -> list[tuple[str, str | None]]:
    """A hub that has every model, and remembers which were asked for."""
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(name: str, revision: str | None = None, **_: Any) -> str:
        asked.append((name, revision))
        return str(tiny_t5)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_models_are_pulled_by_short_names_ids_and_revisions(tomtat: Tomtat, hub: list[Any], tiny_t5: Path):
    done = tomtat("models", "pull", "flan-t5-small", "mbart-large-50", "somebody/else@v2")
    assert done.code == 0, done.err
    assert hub == [("google/flan-t5-small", None), ("facebook/mbart-large-50", "refs/pr/7"), ("somebody/else", "v2")]
    assert f"google/flan-t5-small: {tiny_t5}" in done.out
    assert 'model.revision = "refs/pr/7"' in done.err


@pytest.mark.parametrize(
    ("name", "told"), [("flan-t5-smal", "Did you mean flan-t5-small?"), ("minlm", "minilm"), ("bert", "OWNER/NAME"), ("a/b/c", "OWNER/NAME")]
)  # fmt: skip
def test_a_name_that_nobody_knows_is_told_before_anything_is_fetched(
    tomtat: Tomtat, hub: list[Any], name: str, told: str
):
    done = tomtat("models", "pull", "flan-t5-small", name)
    assert done.code == 2
    assert told in done.err
    assert hub == []


def test_a_hub_out_of_reach_is_one_line(tomtat: Tomtat, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fails(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    done = tomtat("models", "pull", "flan-t5-small")
    assert done.code == 2
    assert "the model hub can't be reached" in done.err
    assert "Traceback" not in done.err


def test_removing_frees_what_it_says_and_nothing_else(tomtat: Tomtat, caches: Path):
    repo = in_hub(caches, "google/flan-t5-small", b"x" * 2_000_000, COMMITS)
    other = in_hub(caches, "google/flan-t5-base", b"x" * 1000)
    ours = in_ours(caches, f"models/{EMBEDDED}-v1", 1_000_000)
    done = tomtat("models", "remove", "flan-t5-small", "google/flan-t5-small", EMBEDDED, "--yes")
    assert done.code == 0, done.err
    assert "5.0 MB are free again" in done.out
    assert not repo.exists()
    assert not ours.exists()
    assert (other / "snapshots" / COMMITS[0] / "model.safetensors").read_bytes() == b"x" * 1000
    assert [one.name for one in cached()] == ["google/flan-t5-base"]
    assert list((caches / "tomtat" / "models").iterdir()) == []
    assert tomtat("models", "remove", "flan-t5-small", "--yes").code == 2


def test_removing_asks_first(tomtat: Tomtat, caches: Path, monkeypatch: pytest.MonkeyPatch):
    repo = in_hub(caches, "google/flan-t5-small", b"x" * 1000)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    alone = tomtat("models", "remove", "flan-t5-small")
    assert alone.code == 2
    assert "--yes" in alone.err

    class Person(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Person("n\n"))
    assert "Nothing was removed" in tomtat("models", "remove", "flan-t5-small").out
    assert repo.exists()
    monkeypatch.setattr("sys.stdin", Person("y\n"))
    assert "free again" in tomtat("models", "remove", "flan-t5-small").out
    assert not repo.exists()


@pytest.mark.parametrize("name", ["../precious", "/etc", ".", "precious", "hub/../../precious", "models--google--x"])
def test_nothing_outside_the_caches_can_be_named(tomtat: Tomtat, caches: Path, name: str):
    (caches / "precious").mkdir()
    (caches / "precious" / "file").write_text("mine")
    in_hub(caches, "google/x", b"x")
    assert tomtat("models", "remove", name, "--yes").code == 2
    assert (caches / "precious" / "file").read_text() == "mine"
    assert (caches / "hub" / "models--google--x").exists()


def test_where_a_link_leads_to_stays(tomtat: Tomtat, caches: Path):
    away = caches / "elsewhere"
    away.mkdir()
    (away / "model.safetensors").write_bytes(b"x" * 1000)
    (caches / "tomtat" / "models").mkdir(parents=True)
    (caches / "tomtat" / "models" / f"{EMBEDDED}-v1").symlink_to(away)
    repo = in_hub(caches, "google/flan-t5-small", b"x" * 1000)
    moved = caches / "moved"
    repo.rename(moved)
    repo.symlink_to(moved)
    for name in (EMBEDDED, "google/flan-t5-small"):
        tomtat("models", "remove", name, "--yes")
    assert (away / "model.safetensors").stat().st_size == 1000
    assert (moved / "blobs" / "0").stat().st_size == 1000


def test_what_tomtat_made_itself_can_be_removed_as_a_whole(tomtat: Tomtat, caches: Path):
    in_ours(caches, "ctranslate2/0123-int8", 500_000)
    assert "ctranslate2" in tomtat("models", "list", "--cached").out
    assert "0.5 MB are free again" in tomtat("models", "remove", "ctranslate2", "--yes").out
    assert cached() == []


def test_ids_are_taken_as_they_are():
    assert hub_name("Somebody/Else") == "Somebody/Else"
    assert hub_name("QWEN3-0.6b") == "Qwen/Qwen3-0.6B"
