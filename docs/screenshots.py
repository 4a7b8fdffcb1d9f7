"""The pictures of the page in README.md and docs/page.md, made from our own bundled chats.

    python docs/screenshots.py runs/chats runs/first     # all three: a run, and another to compare it with
    python docs/screenshots.py --only chat               # one picture; no run is wanted
    python docs/screenshots.py runs/chats --only chat --fold    # the chat folded by the run: ten minutes and more

Without --fold the chat's memory picks sentences, and its picture says so.

Both runs lie in one folder and are scored on the same rows. Those in the README were made so, but that of the second
the adapter of its first epoch was taken, while its training went on:

    tomtat train recipes/chats.toml --set data.train=chats@train[:24] --set data.validation=chats@validation[:6] \\
        --set train.epochs=1 --set generate.max_new_tokens=307 --out runs/first-24-chats
    tomtat train recipes/chats.toml --out runs/chats
    tomtat evaluate runs/first-24-chats && tomtat evaluate runs/chats

Needs the extras ui and dev, and a Chromium ($TOMTAT_TEST_CHROMIUM names one that is not on the path). Asks nobody: the
chat's answers are canned, what the memory folds, sends and recalls is not.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from ui_browser import chromium  # noqa: E402
from upstream_fake import FakeUpstream, running  # noqa: E402

IMAGES = ROOT / "docs/images"
SIZE = {"width": 1280, "height": 820}
COLORS = 96
"""Of a picture: enough for text and flat colours, and a third of the bytes."""
MINUTES = 60_000
EXAMPLE = "rain jacket between two sizes"
QUESTION = "Remind me: which host is the old server, and what IP did the new one get?"
ANSWER = (
    "The old server is ponirek.trebnik.example. The new one, vodomec, has 10.20.6.31: Blaž moved the servers to VLAN 6."
)


@contextmanager
def page_of(run: str | None, upstream: str, store: Path) -> Iterator[str]:
    """`tomtat ui`, or without a run `tomtat serve` without a model; the page's address."""
    kind = ["ui", run, "--no-browser"] if run else ["serve", "--no-summarizer", "--port", "0", "--log-level", "warning"]
    command = [sys.executable, "-m", "tomtat.cli", *kind, "--upstream", upstream, "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if found := re.search(r"page:?\s+(http://\S+/ui)", line):
                yield found[1]
                return
        raise SystemExit(f"tomtat ui ended with {process.wait()}.")
    finally:
        process.terminate()
        process.wait()


def summarize(page: Any, _: argparse.Namespace) -> None:
    choose(page, "Or an example", EXAMPLE)
    page.wait_for_function("document.querySelector('#source textarea').value.length > 100")
    page.get_by_role("button", name="Summarize", exact=True).click()
    page.wait_for_function("""[...document.querySelectorAll('.tt-card')].every((one) => one.ariaBusy !== 'true')
        && document.querySelector('.tt-figures')""", timeout=10 * MINUTES)  # fmt: skip
    for facts in page.locator(".tt-card details summary").all():
        facts.click()


def chat(page: Any, _: argparse.Namespace) -> None:
    page.get_by_role("tab", name="Chat", exact=True).click()
    choose(page, "Open an example", "moving a flaky")
    slider = page.locator("#budget input[type=number]")
    slider.fill("3000")
    slider.press("Enter")
    slider.blur()
    page.wait_for_function(
        "/summaries \\(.* [0-9] turns? not folded/.test(document.querySelector('#memory').innerText)",
        timeout=60 * MINUTES,
    )
    page.get_by_label("Your message").fill(QUESTION)
    page.get_by_label("Your message").press("Enter")
    page.wait_for_function("document.querySelector('#said').innerText.includes('VLAN 6')", timeout=MINUTES)
    page.locator(".tt-saying summary").first.click()


def runs(page: Any, arguments: argparse.Namespace) -> None:
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.get_by_role("tab", name="Compare", exact=True).click()
    choose(page, "This", Path(arguments.other).name)
    choose(page, "With this", Path(arguments.run).name)
    page.get_by_role("button", name="Compare", exact=True).click()
    answer = page.locator("#tab-runs :is(.tt-verdict, .tt-error):visible").first
    answer.wait_for()
    if "tt-error" in (answer.get_attribute("class") or ""):
        raise SystemExit(answer.inner_text())


PICTURES = {"summarize": summarize, "chat": chat, "runs": runs}


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    named = page.get_by_role("option", name=option)
    exact = page.get_by_role("option", name=option, exact=True)
    (exact if exact.count() else named).first.click()


def save(page: Any, name: str) -> None:
    from PIL import Image

    page.wait_for_timeout(1500)
    page.evaluate("window.scrollTo(0, 0); document.activeElement.blur()")
    whole = min(page.evaluate("document.documentElement.scrollHeight"), 1300)
    page.set_viewport_size({**SIZE, "height": max(SIZE["height"], whole)})
    page.wait_for_timeout(500)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(COLORS).save(path, optimize=True)
    page.set_viewport_size(SIZE)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KB")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a scored run")
    parser.add_argument("other", nargs="?", help="another of the same folder to compare it with")
    parser.add_argument("--fold", action="store_true", help="fold the chat with the run")
    parser.add_argument("--only", choices=PICTURES, action="append")
    arguments = parser.parse_args()
    names = arguments.only or list(PICTURES)
    if ("runs" in names and not arguments.other) or (("summarize" in names or arguments.fold) and not arguments.run):
        parser.error("name two runs, RUN OTHER, or by --only what needs none or one")
    IMAGES.mkdir(exist_ok=True)
    fake = FakeUpstream(lists=["your-chatbot"], says=lambda _: ANSWER, pause=0.02)
    with running(fake) as upstream, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name in names:
            run = arguments.run if name != "chat" or arguments.fold else None
            with (
                tempfile.TemporaryDirectory() as folder,
                page_of(run, f"{upstream}/v1", Path(folder, "chats.db")) as address,
            ):
                page = browser.new_page(viewport=SIZE, reduced_motion="reduce")
                page.set_default_timeout(MINUTES)
                page.goto(f"{address}/")
                page.get_by_role("tab", name="Summarize", exact=True).wait_for()
                page.wait_for_timeout(3000)
                PICTURES[name](page, arguments)
                save(page, name)
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
