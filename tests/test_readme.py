"""What README and recipes tell people to type is something that works."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from tomtat.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("recipes/*.toml")),
    ROOT / "Makefile",
]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := re.match(
                r"[#\s]*(?:\$\(BIN\)/)?"
                r"(tomtat (?:train|candidates|evaluate|compare|summarize|params|models|export|push|store) .*)",
                line,
            ):
                found.append(re.sub(r"  +[(#].*", "", match[1]))
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_docs_parse(command: str):
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md", "docs/export.md", "docs/generation.md"])
def test_files_that_pages_link_to_exist(page: str):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_is_still_missing(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@|TODO|see LOG\.md\n", text)


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "rouge1" in printed
    assert "tuned" in printed
    assert len(printed.splitlines()) >= 6


def test_the_stores_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/store.md").read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    exec(compile(code, "store.md", "exec"), {})
    assert "conversations=1, turns=2, derived=1" in capsys.readouterr().out
