"""Runs and data on the page as a person sees them, in headless Chromium."""
# ruff: noqa: F811, a fixture that is imported has its parameter's name

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'tomtat[ui]'")

from playwright.sync_api import Locator, Page, expect

from conftest import rows, small_settings, write_jsonl
from tomtat.config import RunConfig, build_config
from tomtat.evaluation import evaluate_predictions
from tomtat.labelling.drafts import Attempt, Chat, chat_event, draft_event, load
from tomtat.labelling.journal import journal_path, open_journal
from tomtat.run_folder import RunFolder
from tomtat.server.keys import add_key
from tomtat.types import Message
from ui_browser import PHONE, SECONDS, WIDE, Open, Opened, assert_for_everybody, browser, open_page  # noqa: F401, fixtures

expect.set_options(timeout=1000 * SECONDS)
LONG_SECONDS = 240_000
"""A training loads PyTorch first, on a machine that may be busy."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the server is started, with a data set of twelve rows."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data.jsonl", rows(12))
    (tmp_path / "runs").mkdir()
    return tmp_path


def scored_run(here: Path, name: str, says: Callable[[dict[str, Any]], str]) -> None:
    info = {"finished": True, "data": {"train_rows": 12}}
    folder = RunFolder.create(here / "runs" / name, RunConfig(), info)
    for step in range(1, 7):
        folder.log({"kind": "step", "step": step, "epoch": 1 + step // 4, "loss": 3 - step / 4, "seconds": 0.5})
    for epoch, is_best in ((1, True), (2, False)):
        folder.log(
            {"kind": "epoch", "epoch": epoch, "train_loss": 2.5, "validation_loss": 2.0 + epoch / 9, "seconds": 2.0,
             "examples_per_second": 6.0, "is_best": is_best}
        )  # fmt: skip
    references = write_jsonl(here / "test.jsonl", rows(30))
    said = [{"id": row["id"], "prediction": says(row)} for row in rows(30)]
    file = write_jsonl(here / f"{name}.predictions.jsonl", said)
    out = folder.path / "evaluations" / "test"
    evaluate_predictions([file], str(references), out, settings={"evaluate.metrics": ["rouge"]})


def choose(page: Page, panel: Locator, label: str, option: str) -> None:
    panel.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)


# -- Runs


def test_runs_are_looked_at_and_two_compared_with_the_verdict_in_words(open_page: Open, here: Path):
    scored_run(here, "good", lambda row: str(row["summary"]))
    scored_run(here, "bad", lambda row: "they meet on the moon")
    opened = open_page({"runs_folder": str(here / "runs")})
    page, panel = opened.page, opened.tab("Runs")

    choose(page, panel, "Run", "good")
    expect(panel.get_by_role("status")).to_have_text("good: Finished.")
    expect(panel.get_by_role("img", name="Loss over 6 steps")).to_be_visible()
    expect(panel.get_by_role("rowheader", name="1 (kept)")).to_be_visible()
    expect(panel.get_by_role("region", name="30 rows of")).to_contain_text("rougeL")
    panel.get_by_role("button", name="Show the report").click()
    frame = page.frame_locator("iframe[title='Report of good/test']")
    expect(frame.get_by_role("heading", level=1)).to_be_visible()
    assert page.locator("iframe").get_attribute("sandbox") == ""
    page.locator("iframe").scroll_into_view_if_needed()
    page.screenshot(path=here / "report.png")
    assert_for_everybody(opened, "look", here)

    page.get_by_role("tab", name="Compare", exact=True).click()
    choose(page, panel, "This", "bad/test")
    choose(page, panel, "With this", "good/test")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator(".tt-verdict:visible")).to_contain_text("is better than")
    assert_for_everybody(opened, "compare", here)

    choose(page, panel, "This", "good/test")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.get_by_role("alert")).to_have_text("The same evaluation is named twice.")


def test_a_single_run_is_compared_with_a_yardstick_of_its_own(open_page: Open, here: Path):
    scored_run(here, "only", lambda row: str(row["summary"]))
    opened = open_page({"runs_folder": str(here / "runs")})
    panel = opened.tab("Runs")
    opened.page.get_by_role("tab", name="Compare", exact=True).click()
    expect(panel.get_by_label("With this", exact=True)).to_have_value("only/test")
    expect(panel.get_by_label("This", exact=True)).to_have_value(re.compile("^only/test: "))
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator(".tt-verdict:visible")).to_contain_text("is better than")


def test_an_empty_folder_says_what_to_do(open_page: Open, here: Path):
    opened = open_page({"runs_folder": str(here / "runs")}, size=PHONE)
    panel = opened.tab("Runs")
    expect(panel).to_contain_text("No runs in")
    expect(panel.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    opened.page.get_by_role("tab", name="Compare", exact=True).click()
    expect(panel).to_contain_text("Nothing to compare yet")
    assert opened.errors == []


@pytest.mark.slow
def test_a_run_is_started_watched_stopped_and_resumed(open_page: Open, here: Path, tiny_llama: Path):
    values = small_settings(tiny_llama, here / "data.jsonl") | {"train.epochs": 500, "evaluate.metrics": ["rouge"]}
    (here / "recipes").mkdir()
    (here / "recipes" / "tiny.toml").write_text(build_config({}, values).to_toml(), encoding="utf-8")
    opened = open_page({"runs_folder": str(here / "runs")})
    page, panel = opened.page, opened.tab("Runs")
    page.get_by_role("tab", name="Start", exact=True).click()
    expect(panel.get_by_label("Recipe", exact=True)).to_have_value("tiny.toml")
    panel.get_by_label("Name of the run").fill("mine")
    panel.get_by_label("Settings over the recipe's").fill("lora.rnak=2")
    panel.get_by_role("button", name="Start the training").click()
    expect(panel.get_by_role("alert")).to_contain_text("lora.rnak is not a setting; did you mean lora.rank?")
    panel.get_by_label("Settings over the recipe's").fill("data.train=/etc/passwd")
    panel.get_by_role("button", name="Start the training").click()
    expect(panel.get_by_role("alert")).to_contain_text("lies outside of what this page may read")
    assert_for_everybody(opened, "start", here)
    assert not (here / "runs" / "mine").exists()

    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    panel.get_by_label("Settings over the recipe's").fill("# one a line\nlora.rank=2\n")
    panel.get_by_role("button", name="Start the training").click()
    state, bar = panel.get_by_role("status"), panel.get_by_role("progressbar", name="Training")
    stop, resume = (panel.get_by_role("button", name=name, exact=True) for name in ("Stop", "Resume"))
    expect(state).to_have_text("mine: Training.", timeout=LONG_SECONDS)
    picture = panel.get_by_role("img", name="Loss over")
    expect(picture).to_be_visible(timeout=LONG_SECONDS)
    first = steps_drawn(picture)
    expect(picture).not_to_have_attribute("aria-label", re.compile(rf"Loss over {first} steps"), timeout=LONG_SECONDS)
    assert steps_drawn(picture) > first
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"Step [\d,]+ of 1,500, epoch .* left"))
    expect(resume).to_be_disabled()

    stop.click()
    expect(state).to_contain_text("Stopped on request", timeout=LONG_SECONDS)
    panel.get_by_role("button", name="What the training said").click()
    expect(panel.get_by_role("region", name="End of the log")).to_contain_text("checkpoint written")
    assert_for_everybody(opened, "stopped", here)
    stopped_at = len(RunFolder(here / "runs" / "mine").metrics())

    resume.click()
    expect(state).to_have_text("mine: Training.", timeout=LONG_SECONDS)
    page.wait_for_timeout(500)
    expect(stop).to_be_enabled(timeout=LONG_SECONDS)
    wait_until(page, lambda: len(RunFolder(here / "runs" / "mine").metrics()) > stopped_at)
    stop.click()
    expect(state).to_contain_text("Stopped on request", timeout=LONG_SECONDS)
    steps = [row["step"] for row in RunFolder(here / "runs" / "mine").metrics() if row["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))

    panel.get_by_role("button", name="Score", exact=True).click()
    expect(state).to_contain_text("Its test data are being scored.")
    expect(panel.get_by_role("region", name="4 rows of")).to_contain_text("lead-3", timeout=LONG_SECONDS)
    expect(state).to_have_text("mine: Its training is not finished. Resume goes on with it.")


def steps_drawn(picture: Locator) -> int:
    found = re.match(r"Loss over (\d+) steps", picture.get_attribute("aria-label") or "")
    assert found
    return int(found[1])


def wait_until(page: Page, what: Callable[[], bool]) -> None:
    for _ in range(LONG_SECONDS // 200):
        if what():
            return
        page.wait_for_timeout(200)
    raise AssertionError("It did not come.")


# -- Data


def test_data_are_checked_with_pictures_and_files_elsewhere_are_refused(
    open_page: Open, here: Path, tmp_path_factory: pytest.TempPathFactory
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    uploaded = write_jsonl(elsewhere / "mine.jsonl", [*rows(40), {"id": "x", "dialogue": "no summary"}])
    opened = open_page({"runs_folder": str(here / "runs"), "folds_with": None})
    panel = opened.tab("Data")
    sources, button = panel.get_by_label("What to check"), panel.get_by_role("button", name="Check", exact=True)

    for source in (str(uploaded), f"train={uploaded}", "../*", "-"):
        sources.fill(source)
        button.click()
        expect(panel.get_by_role("alert")).to_contain_text(re.compile("lies outside|no standard input"))
        sources.fill("")
        button.click()
        expect(panel.get_by_role("alert")).to_contain_text("Name what to check")

    panel.locator("input[type=file]").set_input_files(uploaded)
    expect(panel).to_contain_text("mine.jsonl")
    button.click()
    verdict = panel.get_by_role("status").filter(has_text="Not ready to train on")
    expect(verdict).to_be_visible(timeout=LONG_SECONDS)
    expect(panel.get_by_role("region", name="Rows that can't be used")).to_contain_text("mine.jsonl, line 41")
    expect(panel).not_to_contain_text("/mine.jsonl")
    expect(panel.get_by_role("img", name="Lengths in source")).to_be_visible()
    assert_for_everybody(opened, "check", here)


def write_drafts(out: Path) -> None:
    asked = (Message("user", "Can we move it from Monday to Friday? I am ill."), Message("assistant", "Yes, Nina."))
    drafts = (
        ("mail-1", asked, "Nina moves it to Friday at 9:45.", ("the number 9:45 stands nowhere in the chat",)),
        ("mail-2", "Anna sends Boris the contract.", "Anna sends the contract.", ()),
        ("mail-3", "Priya orders forty chairs.", "<b>14</b> chairs for Priya.", ("the number 14 is invented",)),
    )
    with open_journal(journal_path(out)) as journal:
        for row, (id_, source, text, reasons) in enumerate(drafts):
            journal.append(
                chat_event(f"key-{row}", "a-model", Chat(id_, row, source)),
                draft_event(f"key-{row}", Attempt(text, reasons, 50, 9), "stop", None),
            )


def test_drafts_are_reviewed_by_keyboard_and_each_decision_is_on_the_disk(open_page: Open, here: Path):
    out = here / "labelled.jsonl"
    write_drafts(out)
    opened = open_page({"runs_folder": str(here / "runs")})
    page, panel = opened.page, opened.tab("Data")
    page.get_by_role("tab", name="Review", exact=True).click()
    panel.get_by_label("Drafts", exact=True).click()
    page.get_by_role("option", name="labelled.jsonl.drafts.jsonl").click()
    chat, text = panel.get_by_role("region", name="The chat"), panel.get_by_label("Summary", exact=True)
    expect(chat).to_contain_text("I am ill")
    expect(panel.locator(".tt-foreign")).to_contain_text("9:45")
    expect(panel).to_contain_text("0 of 2 decided")
    assert_for_everybody(opened, "review", here)

    chat.focus()
    page.keyboard.press("e")
    expect(text).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("Nina moves it to Friday, at 7:15.")
    expect(panel.locator(".tt-draft")).to_contain_text("7:15 (this")
    page.keyboard.press("Control+a")
    page.keyboard.type("Nina moves it to Friday.")
    page.keyboard.press("Control+Enter")
    expect(panel).to_contain_text("mail-1: corrected. 2 rows that train are in labelled.jsonl.")
    assert [draft.status for draft in load(out)] == ["corrected", "passed", "review"]
    trained = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["summary"] for row in trained] == ["Nina moves it to Friday.", "Anna sends the contract."]

    expect(text).to_have_value("<b>14</b> chairs for Priya.")
    expect(panel.locator(".tt-draft")).to_contain_text("<b>14")
    page.keyboard.press("Escape")
    expect(chat).to_be_focused()
    page.keyboard.press("r")
    expect(panel).to_contain_text("Nothing waits for a decision here.")
    assert [draft.status for draft in load(out)] == ["corrected", "passed", "rejected"]

    panel.get_by_label("all", exact=True).check()
    expect(chat).to_contain_text("I am ill")
    chat.focus()
    for seen in ("Boris", "Priya", "I am ill"):  # the focus goes with the chat
        page.keyboard.press("n")
        expect(chat).to_contain_text(seen)
    with open_journal(journal_path(out)):
        panel.get_by_role("button", name="Reject", exact=True).click()
        expect(panel.get_by_role("alert")).to_contain_text("Another process")
    assert [draft.status for draft in load(out)] == ["corrected", "passed", "rejected"]


# -- who may


def test_a_tenant_who_is_no_admin_sees_neither_and_is_refused(open_page: Open, here: Path):
    keys = here / "keys.json"
    _, acme = add_key(keys, "acme")
    _, owner = add_key(keys, "owner", admin=True)
    scored_run(here, "secret-run", lambda row: "x")
    opened = open_page({"keys": str(keys), "runs_folder": str(here / "runs")}, path="/", wait=False)
    page = opened.page
    page.get_by_label("Key").fill(acme)
    page.get_by_label("Key").press("Enter")
    expect(page.locator("#head")).to_contain_text("Tenant acme")
    for name in ("Runs", "Data"):
        expect(page.get_by_role("tab", name=name, exact=True)).to_have_count(0)
    answers = page.evaluate(ASK_EVERYTHING)
    assert len(answers) > 10
    assert "secret-run" not in json.dumps(answers)

    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Key").fill(owner)
    page.get_by_label("Key").press("Enter")
    expect(page.locator("#head")).to_contain_text("Tenant owner")
    expect(opened.tab("Runs")).to_contain_text("secret-run")
    assert "secret-run" in json.dumps(page.evaluate(ASK_EVERYTHING))  # so the question above was one that is answered


ASK_EVERYTHING = """async () => {
  // As somebody would who calls the page's handlers without its buttons.
  const config = await (await fetch('config')).json();
  const answers = [];
  for (const one of config.dependencies) {
    const session_hash = 'mine' + one.id;
    const data = one.inputs.map(() => null);
    const told = await fetch('gradio_api/queue/join', {
      method: 'POST', headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({data, fn_index: one.id, session_hash, event_data: null, trigger_id: one.targets[0]?.[0]}),
    });
    if (!told.ok) { answers.push(await told.text()); continue; }
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 4000);
    try {
      const stream = await fetch('gradio_api/queue/data?session_hash=' + session_hash, {signal: stop.signal});
      const reader = stream.body.getReader();
      let text = '';
      while (!text.includes('process_completed')) {
        const {value, done} = await reader.read();
        if (done) break;
        text += new TextDecoder().decode(value);
      }
      answers.push(text);
    } catch (error) { answers.push(String(error)); }
  }
  return answers;
}"""
