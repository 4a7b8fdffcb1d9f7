"""The page as a person sees it, in headless Chromium: Summarize, Chat, signing in."""
# ruff: noqa: F811, a fixture that is imported has its parameter's name

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'tomtat[ui]'")

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Locator, Page, expect

from server_fakes import FakeModels
from tomtat.data.loading import load_examples
from tomtat.server.errors import ApiError
from tomtat.server.keys import add_key, remove_key
from tomtat.server.services import Caller, ModelCard
from tomtat.summarizer import Summary
from tomtat.types import Source
from ui_browser import PHONE, Open, Opened, assert_for_everybody, browser, open_page  # noqa: F401, fixtures
from upstream_fake import FakeUpstream, running

CHAT = "Nina: Friday is off, I am ill.\nOmar: Get well! I tell Karim that we meet on Monday in room 4."


class TwoModels(FakeModels):
    """A tuned one that says what it is told to, word by word, and its untuned base."""

    def __init__(self, says: str = "Nina is ill, so they meet on Monday in room 7.") -> None:
        super().__init__({"chats": None, "base": None})
        self.says, self.pause = says, 0.0

    def cards(self, tenant: str) -> list[ModelCard]:
        return [
            ModelCard(model, 0, "base", "0" * 64 if model == "chats" else None, 60, 64) for model in self.ids(tenant)
        ]

    async def stream(
        self, caller: Caller, model: str, source: Source, generate: Mapping[str, Any]
    ) -> AsyncGenerator[str | Summary]:
        self._ask(caller, model, (source,), generate)
        text = self.says if model == "chats" else f"{source[:30]}"
        for word in text.split(" "):
            yield f"{word} "
            await asyncio.sleep(self.pause)
            if self.fails:
                raise self.fails
        yield Summary(text, 30, len(text.split()), "stop")


@pytest.fixture
def upstream() -> Iterator[tuple[FakeUpstream, str]]:
    fake = FakeUpstream(lists=["qwen3", "any!cut"], says=lambda _: "Noted, thank you.")
    with running(fake) as url:
        yield fake, f"{url}/v1"


def choose(page: Page, label: str, option: str) -> None:
    box = page.get_by_label(label, exact=True)
    box.click()
    page.get_by_role("option", name=option).first.click()


# -- Summarize


def test_a_summary_is_made_beside_the_untuned_one(open_page: Open, tmp_path: Path):
    models = TwoModels()
    opened = open_page(models=models)
    page = opened.page
    expect(page.locator("#first-summary")).to_contain_text("Summaries come here")
    page.get_by_label("Text or chat").fill(CHAT)
    choose(page, "Decoding", "beam")
    page.get_by_label("Most sentences (0: any)").fill("2")
    page.get_by_role("button", name="Summarize", exact=True).click()

    tuned, base = page.locator("#first-summary"), page.locator("#second-summary")
    expect(tuned).to_contain_text("chats tuned")
    expect(tuned.locator(".tt-invented").first).to_contain_text("7")
    expect(tuned.locator(".tt-summary .tt-copied").first).to_contain_text("meet on Monday in room")
    expect(tuned).to_contain_text("tokens read")
    expect(base).to_contain_text("base untuned")
    tuned.get_by_text("names, numbers and dates", exact=False).first.click()
    expect(tuned.locator(".tt-lost").first).to_contain_text("Omar")
    assert sorted(model for _, model, _, _ in models.asked) == ["base", "chats"]
    assert all(generate == {"decode": "beam", "max_sentences": 2} for *_, generate in models.asked)
    assert tuned.bounding_box()["y"] == base.bounding_box()["y"]
    assert_for_everybody(opened, "summarize", tmp_path)
    # On a phone one below the other, each as wide as there is room.
    assert base.bounding_box()["y"] > tuned.bounding_box()["y"] + tuned.bounding_box()["height"]
    assert tuned.bounding_box()["width"] > PHONE[0] * 0.8


def test_a_file_and_an_example_are_read_and_slips_are_told(open_page: Open, tmp_path: Path):
    opened = open_page()
    page = opened.page
    page.get_by_role("button", name="Summarize", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The text to summarize is empty")

    choose(page, "Or an example", "turns")
    text = page.get_by_label("Text or chat")
    expect(text).not_to_have_value("")

    good, bad = tmp_path / "mine.jsonl", tmp_path / "bad.json"
    good.write_text(json.dumps({"messages": [{"role": "user", "content": "Friday is off."}]}), encoding="utf-8")
    bad.write_text("{", encoding="utf-8")
    page.locator("#file input[type=file]").set_input_files(good)
    expect(text).to_have_value("User: Friday is off.")
    page.locator("#file input[type=file]").set_input_files(bad)
    expect(page.locator("#brought").get_by_role("alert")).to_contain_text("bad.json")
    expect(text).to_have_value("User: Friday is off.")


def test_a_model_that_fails_says_why_beside_what_it_had_written(open_page: Open):
    models = TwoModels()
    models.fails = ApiError(429, "Too many wait for the engine. Try again in 2 s.")
    opened = open_page(models=models)
    opened.page.get_by_label("Text or chat").fill(CHAT)
    opened.page.get_by_role("button", name="Summarize", exact=True).click()
    expect(opened.page.locator("#first-summary").get_by_role("alert")).to_contain_text("Too many wait")
    expect(opened.page.locator("#first-summary")).to_contain_text("Nina")
    expect(opened.page.get_by_role("button", name="Summarize", exact=True)).to_be_enabled()


def test_writing_can_be_stopped(open_page: Open):
    models = TwoModels("word " * 200)
    models.pause = 0.1
    opened = open_page(models=models)
    page = opened.page
    page.get_by_label("Text or chat").fill(CHAT)
    page.get_by_role("button", name="Summarize", exact=True).click()
    expect(page.locator("#first-summary")).to_contain_text("word word")
    page.locator("#stop-summary").click()
    expect(page.locator("#first-summary")).to_contain_text("Stopped.")
    expect(page.locator("#first-summary")).to_contain_text("word word")
    expect(page.get_by_role("button", name="Summarize", exact=True)).to_be_enabled()


def test_by_keyboard_alone(open_page: Open):
    opened = open_page(models=TwoModels())
    page = opened.page
    page.get_by_label("Text or chat").focus()
    page.keyboard.type(CHAT.replace("\n", " "))
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "summarize":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#first-summary")).to_contain_text("tokens read")
    page.get_by_role("tab", name="Summarize", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Chat", exact=True)).to_have_attribute("aria-selected", "true")


# -- Chat


def open_long_chat(opened: Opened) -> Locator:
    panel = opened.tab("Chat")
    choose(opened.page, "Open an example", "moving a flaky")
    expect(opened.page.locator("#memory")).to_contain_text("summaries (", timeout=60_000)
    return panel


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def test_a_chat_is_folded_a_turn_recalled_searched_and_all_erased(
    open_page: Open, upstream: tuple[FakeUpstream, str], tmp_path: Path
):
    fake, url = upstream
    opened = open_page({"upstreams": {"fake": {"url": url}}, "budget_tokens": 2000})
    page = opened.page
    open_long_chat(opened)
    expect(page.get_by_label("Who answers")).to_have_value("qwen3")

    ask(page, "Which host did the import die on, ponirek?")
    memory = page.locator("#memory")
    expect(page.locator("#said")).to_contain_text("Noted, thank you.")
    expect(memory).to_contain_text("saved)")
    expect(memory.locator(".tt-recall")).to_contain_text("import died again")
    sent = fake.last.body["messages"]
    assert sum(len(str(message["content"])) for message in sent) < 16_000
    assert any("ponirek.trebnik.example" in str(message["content"]) for message in sent[:-1])

    line = memory.locator(".tt-saying").first
    line.locator("summary").click()
    expect(line.locator(".tt-turns")).to_contain_text("turn ")
    assert_for_everybody(opened, "chat", tmp_path)

    page.get_by_label("Search this conversation").fill("paternity leave")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#hits")).to_contain_text("paternity leave on 22 april")

    page.get_by_role("button", name="Erase this conversation").click()
    page.get_by_role("button", name="Erase for good").click()
    expect(page.locator("#receipt")).to_contain_text("Erased: 256 turns")
    expect(memory).to_contain_text("Nothing was said yet")
    store = opened.app.state.services.store
    assert list(store.conversations()) == []


def test_the_budget_moves_the_context(open_page: Open, upstream: tuple[FakeUpstream, str]):
    opened = open_page({"upstreams": {"fake": {"url": upstream[1]}}, "budget_tokens": 2000})
    open_long_chat(opened)
    expect(opened.page.locator("#memory")).to_contain_text("of 2,000 tokens")
    slider = opened.page.locator("#budget input[type=number]")
    slider.fill("600")
    slider.press("Enter")
    slider.blur()
    expect(opened.page.locator("#memory")).to_contain_text("of 600 tokens")


def test_an_upstream_that_dies_keeps_what_was_said(open_page: Open, upstream: tuple[FakeUpstream, str]):
    fake, url = upstream
    opened = open_page({"upstreams": {"fake": {"url": url}}})
    page = opened.page
    opened.tab("Chat")
    choose(page, "Who answers", "any!cut")
    ask(page, "Are you there?")
    expect(page.locator("#trouble").get_by_role("alert")).to_contain_text("broke off")
    expect(page.locator("#trouble")).to_contain_text("Your message is kept")
    expect(page.locator("#said")).to_contain_text("[broken off]")

    fake.lists = None
    choose(page, "Who answers", "qwen3")
    ask(page, "And now?")
    expect(page.locator("#said")).to_contain_text("Noted, thank you.")
    expect(page.locator("#trouble").get_by_role("alert")).to_have_count(0)


def test_an_upstream_that_is_not_there_can_be_asked_again(open_page: Open):
    fake = FakeUpstream(lists=["qwen3"], says=lambda _: "Here I am.")
    with running(fake) as url:
        opened = open_page({"upstreams": {"fake": {"url": f"{url}/v1"}}})
        page = opened.page
        opened.tab("Chat")
        expect(page.get_by_label("Who answers")).to_have_value("qwen3")
    ask(page, "Are you there?")
    expect(page.locator("#trouble").get_by_role("alert")).to_contain_text("can't be reached")
    expect(page.locator("#said")).to_contain_text("Are you there?")
    port = int(url.rsplit(":", 1)[1])
    with running_at(fake, port):
        page.get_by_role("button", name="Ask again").click()
        expect(page.locator("#said")).to_contain_text("Here I am.")
        messages = [message["content"] for message in fake.last.body["messages"]]
        assert messages == ["Are you there?"], "it was said once"
        ask(page, "Good to hear.")
        expect(page.locator("#memory")).to_contain_text("Since you came")


def running_at(app: Any, port: int) -> Any:
    import socket

    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", port))
    return running(app, fd=taken.detach())


def test_an_answer_can_be_stopped(open_page: Open):
    fake = FakeUpstream(lists=["slow"], says=lambda _: "one two three four five six seven eight " * 20, pause=0.2)
    with running(fake) as url:
        opened = open_page({"upstreams": {"fake": {"url": f"{url}/v1"}}})
        page = opened.page
        opened.tab("Chat")
        expect(page.get_by_label("Who answers")).to_have_value("slow")
        ask(page, "Count.")
        expect(page.locator("#said")).to_contain_text("three")
        page.locator("#stop-answer").click()
        expect(page.locator("#said")).to_contain_text("[stopped]")
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()


# -- signing in


def test_a_wrong_key_is_refused_and_a_tenant_sees_only_its_own(open_page: Open, tmp_path: Path):
    path = tmp_path / "keys.json"
    _, acme = add_key(path, "acme")
    add_key(path, "umbrella")
    opened = open_page({"keys": str(path)}, path="/", wait=False)
    page = opened.page
    expect(page).to_have_url(f"{opened.url}/ui/sign-in")
    page.get_by_label("Key").fill("tt-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("This key is not known here")
    assert opened.serious() == []
    opened.errors.clear()  # the browser tells of the 401

    store = opened.app.state.services.store
    store.for_tenant("umbrella").append("secret plans", [{"role": "user", "content": "Nobody knows."}])
    store.for_tenant("acme").append("our chat", [{"role": "user", "content": "Hello."}])
    page.get_by_label("Key").fill(acme)
    page.get_by_label("Key").press("Enter")
    expect(page.locator("#head")).to_contain_text("Tenant acme")
    opened.tab("Chat")
    page.get_by_label("Conversation", exact=True).click()
    expect(page.get_by_role("option", name="our chat")).to_be_visible()
    expect(page.get_by_role("option", name="secret plans")).to_have_count(0)
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("alert")).to_contain_text("You are signed out")
    page.goto(f"{opened.url}/ui/")
    expect(page).to_have_url(f"{opened.url}/ui/sign-in")

    page.get_by_label("Key").fill(acme)
    page.get_by_label("Key").press("Enter")
    opened.tab("Chat")
    remove_key(path, "acme")
    with suppress(PlaywrightError):  # a timer of the page's may have found out already
        page.evaluate("fetch('config')")
    expect(page.get_by_role("alert")).to_contain_text("Your session is over")


def test_the_examples_are_those_that_nothing_is_trained_on():
    from tomtat.ui.sources import topics

    assert set(topics("test")) == {example.id for example in load_examples("chats@test")}
