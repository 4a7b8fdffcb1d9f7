"""The page in a real browser: a server in this process, headless Chromium before it.

A test takes `open_page` and `assert_for_everybody` from here, as `tests/test_ui_browser.py` does. Everything is skipped,
with the reason, where Playwright or a Chromium is missing; `$TOMTAT_TEST_CHROMIUM` names one that lies elsewhere.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from server_fakes import FakeModels
from upstream_fake import running

WIDE, PHONE = (1280, 900), (390, 844)
SECONDS = 60
"""That a test waits for something on the page."""


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("TOMTAT_TEST_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of a module, and no longer: while Playwright is there, no test can run an event loop of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'tomtat[ui]'")
    place = chromium()
    if place is None:
        pytest.skip("There is no Chromium: install one (Debian: chromium), or name it in $TOMTAT_TEST_CHROMIUM.")
    api.expect.set_options(timeout=SECONDS * 1000)
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=place, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@dataclass
class Opened:
    """A page of a served tomtat, and what it asked for."""

    page: Any
    url: str
    app: Any
    """The server's application; `app.state.services` are its parts."""
    asked: list[str] = field(default_factory=list)
    """Addresses of all requests."""
    errors: list[str] = field(default_factory=list)
    """What the browser's console says is wrong."""

    @property
    def strange(self) -> list[str]:
        """Requests that went elsewhere than to the server."""
        own = urlsplit(self.url).netloc
        return [url for url in self.asked if url.startswith("http") and urlsplit(url).netloc != own]

    def tab(self, name: str) -> Any:
        """Open one of the four tabs; its panel."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        return self.page.locator(f"#tab-{name.lower()}")

    def serious(self) -> list[str]:
        """What axe finds on the page as it stands, of those things that keep people out."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {node['target']} {node['html'][:160]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    def is_cut_off(self) -> bool:
        """Whether a reader must scroll sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"))


def assert_for_everybody(opened: Opened, picture: str, folder: Path) -> None:
    """Nothing from elsewhere, nothing that keeps people out, nothing cut off: wide and narrow, light and dark.

    picture: its name in the folder.
    """
    for size in (WIDE, PHONE):
        for scheme in ("light", "dark"):
            opened.page.emulate_media(color_scheme=scheme)
            opened.page.set_viewport_size({"width": size[0], "height": size[1]})
            opened.page.wait_for_timeout(400)
            opened.page.screenshot(path=folder / f"{picture}-{size[0]}-{scheme}.png", full_page=True)
            serious = opened.serious()
            assert not serious, f"{size} {scheme}: {serious}"
            assert not opened.is_cut_off(), f"{size} {scheme}"
            # As wide as the window, whatever it holds.
            assert opened.page.locator(".gradio-container").bounding_box()["width"] == size[0]
    assert not opened.strange, opened.strange
    assert not opened.errors, opened.errors


def _told(said: Any) -> str:
    return f"{said.text} {said.location.get('url', '')}"


Open = Callable[..., Opened]


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """`open_page(settings, models=..., size=PHONE, dark=True)`: serves, opens /ui, and waits until it is there."""
    from tomtat.server.app import create_app
    from tomtat.server.settings import load_settings

    with ExitStack() as stack:

        def start(
            settings: Mapping[str, Any] | None = None, *, models: Any = None, size: tuple[int, int] = WIDE,
            dark: bool = False, path: str = "/ui/", wait: bool = True,
        ) -> Opened:  # fmt: skip
            values = {"store": str(tmp_path / "chats.db"), "port": 0, **(settings or {})}
            app = create_app(load_settings(overrides=values), models=models or FakeModels(), page=True)
            url = stack.enter_context(running(app))
            until = time.monotonic() + SECONDS
            while not app.state.page.is_there:
                assert time.monotonic() < until, "The page did not come."
                time.sleep(0.02)
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light",
                reduced_motion="reduce",
            )  # fmt: skip
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(SECONDS * 1000)
            opened = Opened(page, url, app)
            context.on("request", lambda request: opened.asked.append(request.url))
            page.on("console", lambda said: opened.errors.append(_told(said)) if said.type == "error" else None)
            page.on("pageerror", lambda error: opened.errors.append(str(error)))
            page.goto(url + path)
            if wait:
                page.get_by_role("tab", name="Summarize", exact=True).wait_for()
                # What is there is asked for when the page has come.
                page.wait_for_function("document.querySelector('#model input')?.value")
            return opened

        yield start
