"""docs/server.md against the server: every setting, as it is."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tomtat.config import MemorySettings
from tomtat.described import described
from tomtat.server import create_app
from tomtat.server.conversation_shapes import NewMessages
from tomtat.server.settings import ServerSettings, load_settings

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "server.md"


def table(settings: type[BaseModel] = ServerSettings, prefix: str = "") -> list[str]:
    """A line a setting: its dotted name, its default, what its docstring says."""
    rows = []
    said_of = described(settings)
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if get_origin(kind) is dict:
            rows += table(get_args(kind)[1], f"{prefix}{name}.NAME.")
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not MemorySettings:
            rows += table(kind, f"{prefix}{name}.")
        else:
            said = " ".join(said_of.get(name, "").split())
            if kind is MemorySettings:
                said = "As in [chat memory](memory.md)."
            rows.append(f"| `{prefix}{name}` | {_default(field.default)} | {said} |")
    return rows


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "wanted"
    if value is None or value == () or isinstance(value, BaseModel):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value)}`" if isinstance(value, tuple) else f"`{value}`"


def test_the_page_lists_every_setting_as_it_is():
    written = re.search(
        r"\| setting \| default \| \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8")
    )
    assert written
    assert written[1].splitlines() == table()


def test_each_setting_says_what_it_is():
    assert [row for row in table() if row.endswith("|  |")] == []


def test_the_openapi_document_says_what_is_written_under_each_attribute():
    found = create_app(ServerSettings()).openapi()["components"]["schemas"]

    assert found["SummaryItem"]["properties"]["index"]["description"] == "Of its source in `input`."
    assert found["NewMessages"]["properties"]["branch"]["description"] == "The newest where not given."
    assert described(NewMessages)["branch"] == "The newest where not given."
    assert "description" not in found["SummaryItem"]["properties"]["usage"]


def test_the_pages_settings_can_be_loaded(tmp_path: Path):
    for number, code in enumerate(re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        path = tmp_path / f"{number}.toml"
        path.write_text(code, encoding="utf-8")
        load_settings(path)


def test_texts_of_deployment_say_that_they_were_not_run():
    for path in (ROOT / "deploy").iterdir():
        assert "not run here" in path.read_text(encoding="utf-8").splitlines()[0].lower()
