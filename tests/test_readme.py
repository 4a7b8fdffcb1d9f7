"""What README and recipes tell people to type is something that works."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from tomtat.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("recipes/*.toml")),
    ROOT / "Makefile",
]


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := re.match(
                r"[#\s]*(?:\$\(BIN\)/)?"
                rf"(tomtat (?:{'|'.join(COMMANDS)}) .*)",
                line,
            ):
                found.append(re.sub(r"  +[(#].*", "", match[1]))
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_docs_parse(command: str):
    name, *arguments = shlex.split(command)[1:]
    parse(COMMANDS[name], [name], arguments)


def parse(command: Any, names: list[str], arguments: list[str]) -> None:
    """As far as the command that does the work: a group's own parsing ends before its commands'."""
    context = command.make_context(" ".join(names), list(arguments))
    if hasattr(command, "commands"):
        name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(inner, [*names, name], rest)


def test_each_command_has_a_page():
    listed = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`tomtat {name}" not in listed and f"`{name}`" not in listed] == []


def other_commands(start: str) -> list[list[str]]:
    """Lines of code in the pages that begin with a program's name, cut at comments."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if match := re.search(rf"(?:^[#\s]*|`){start} ([^`]+)", line):
                found.append(re.sub(r"  +[(#].*|\\$", "", match[1]).split())
    return found


@pytest.mark.parametrize("command", other_commands("python"), ids=" ".join)
def test_scripts_in_the_docs_exist_and_know_their_flags(command: list[str]):
    program = next((word for word in command if word.endswith(".py")), None)
    if program is None:  # python -m, or nothing but the name
        return
    code = (ROOT / program).read_text(encoding="utf-8")
    flags = [word.split("=")[0] for word in command if word.startswith("--")]
    assert [flag for flag in flags if f'"{flag}"' not in code] == []


def test_targets_in_the_docs_exist():
    targets = re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {command[0] for command in other_commands("make") if command}
    assert named
    assert named - set(targets) == set()


def links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: f"{page.parent.name}/{page.name}"
)
def test_files_that_pages_link_to_exist(page: Path):
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def test_links_are_found():
    assert {"docs/memory.md", "docs/store.md", "CONTRIBUTING.md"} <= set(links(ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_no_figure_is_still_missing(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@|TODO|see LOG\.md\n", text)


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    memory, finetuning = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    exec(compile(finetuning, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "rouge1" in printed
    assert "tuned" in printed
    assert len(printed.splitlines()) >= 6
    # The run that the page speaks of takes half an hour; the one just made is of the same shape.
    known: dict[str, Any] = {}
    exec(compile(memory.replace("runs/chats", "runs/first"), "README.md", "exec"), known)
    assert known["messages"] == [{"role": "user", "content": "My order LM-48213 came cracked."}]


def test_the_stores_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/store.md").read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    exec(compile(code, "store.md", "exec"), {})
    assert "conversations=1, turns=2, derived=1" in capsys.readouterr().out
