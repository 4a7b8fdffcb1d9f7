"""The loop that asks for all drafts that are missing, and keeps each answer before it asks further.

A refused draft is asked for once more, with the reason. What was answered is never asked for again, by this process or
a later one; a limit, Ctrl-C, a full disk or a server that gives up end the work between two questions, and answers on
their way are waited for: they are paid.
"""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from tomtat.config import LabelSettings
from tomtat.errors import DataError, ModelError, RunError
from tomtat.labelling.asking import CORRECTION_TOKENS, Messages, Question, faults, questions, second_messages
from tomtat.labelling.drafts import Attempt, Chat, Draft, chat_event, draft_event, drafts_of, source_of
from tomtat.labelling.journal import Event, Journal
from tomtat.labelling.pacing import LOOK_SECONDS, Budget, Pace, Prices, Spent, backoff, believed
from tomtat.labelling.upstream import Answer, AskAgain, RefusedChat, Upstream
from tomtat.progress import Advance, Progress

ATTEMPTS = 2
"""The first, and one with the reason why that was refused."""
USUAL_SHARE = 0.25
"""Of the most tokens that an answer may have: what one is taken to have before any was seen."""


class Counter(Protocol):
    """What `tomtat.memory.TokenCounter` is here."""

    def text(self, text: str) -> int: ...

    def total(self, messages: Sequence[Mapping[str, str]]) -> int: ...


@dataclass(frozen=True)
class Limits:
    """What may be spent on a file of drafts, all commands that added to it together."""

    prices: Prices | None = None
    max_cost: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Plan:
    """What is there, and what there is to ask."""

    all: tuple[Question, ...]
    missing: tuple[Question, ...]
    spent: Spent
    """So far."""
    usual: Spent
    """What the missing ones are taken to cost, each asked once..."""
    most: Spent
    """...and at most: each asked twice, each answer as long as it may be. Without what failures cost."""


@dataclass
class Outcome:
    """What a run of the loop came to."""

    passed: int = 0
    to_review: int = 0
    spent: Spent = field(default_factory=Spent)
    """In this run."""
    estimated: int = 0
    """Answers whose tokens were not reported, or not believed."""
    lost: int = 0
    """Requests that brought no answer, and may be charged."""
    failed: list[tuple[str | int, str]] = field(default_factory=list)
    """Rows without a draft, and why."""
    left: int = 0
    """Questions that were not asked, or not to their end."""
    stopped: str | None = None
    """Why the work ended early."""
    is_interrupted: bool = False
    error: ModelError | RunError | None = None
    """To be raised once all is told."""


def spent_on(events: Sequence[Event]) -> Spent:
    usages = [event["usage"] for event in events if event["event"] in ("draft", "lost")]
    return Spent(sum(usage["prompt_tokens"] for usage in usages), sum(usage["completion_tokens"] for usage in usages))


class Labelling:
    def __init__(self, journal: Journal, settings: LabelSettings, model: str, counter: Counter, limits: Limits) -> None:
        self.journal, self.settings, self.model, self.counter, self.limits = journal, settings, model, counter, limits
        self._drafts = drafts_of(journal.events)
        self._outcome = Outcome()
        self._failures_in_a_row = 0
        self._has_answered = False

    def plan(self, chats: Sequence[Chat], data: str) -> Plan:
        """data: how the user named it.

        Raises: DataError where the drafts in the file are of other data.
        """
        self._require_same_data(chats, data)
        wanted = tuple(questions(chats, self.settings, self.model))
        missing = tuple(question for question in wanted if self._is_missing(question))
        counts = [self.counter.total(question.messages) for question in missing]
        again = [count + self.settings.max_new_tokens + CORRECTION_TOKENS for count in counts]
        return Plan(
            wanted, missing, spent_on(self.journal.events),
            usual=Spent(sum(counts), round(len(missing) * self._usual_answer())),
            most=Spent(sum(counts) + sum(again), ATTEMPTS * len(missing) * self.settings.max_new_tokens),
        )  # fmt: skip

    def _usual_answer(self) -> float:
        seen = [attempt.new_tokens for draft in self._drafts.values() for attempt in draft.attempts]
        return sum(seen) / len(seen) if seen else USUAL_SHARE * self.settings.max_new_tokens

    def _require_same_data(self, chats: Sequence[Chat], data: str) -> None:
        before = next((event["data"] for event in reversed(self.journal.events) if event["event"] == "start"), data)
        held = {event["id"]: event for event in self.journal.events if event["event"] == "chat"}
        other = [chat.id for chat in chats if chat.id in held and source_of(held[chat.id]) != chat.source]
        if other and before != data:
            raise DataError(
                f"{self.journal.path} has drafts of {before}, where row {other[0]!r} is another chat than in {data}. "
                "Name another --out."
            )

    def _is_missing(self, question: Question) -> bool:
        draft = self._drafts.get(question.key)
        return draft is None or not (_is_settled(draft))

    def run(self, plan: Plan, upstream: Upstream, data: str, progress: Progress) -> Outcome:
        """Ask for what is missing. Errors that end the work are in the outcome: what came before them is kept."""
        outcome = self._outcome
        outcome.left = len(plan.missing)
        self._budget = Budget(plan.spent, self.limits.prices, self.limits.max_cost, self.limits.max_tokens)
        start: Event = {"event": "start", "data": data, "upstream": upstream.told, "model": self.model}
        moved = self._moved(plan)
        if moved or plan.missing:
            self.journal.append(start, *moved)
        with suppress(asyncio.CancelledError), progress.task("drafts", len(plan.missing), "chats") as advance:
            asyncio.run(self._run(plan.missing, upstream, advance, progress))
        outcome.spent = self._budget.spent - plan.spent
        return outcome

    def _moved(self, plan: Plan) -> list[Event]:
        """Rows that stand elsewhere than they did, or whose text was drafted for another row."""
        events = []
        for question in plan.all:
            if draft := self._drafts.get(question.key):
                events += [
                    chat_event(question.key, self.model, chat) for chat in question.chats if chat not in draft.chats
                ]
        return events

    async def _run(self, missing: Sequence[Question], upstream: Upstream, advance: Advance, progress: Progress) -> None:
        self._upstream, self._advance, self._progress = upstream, advance, progress
        self._pace = Pace(self.settings.per_minute, lambda: self._outcome.stopped is not None)
        todo = iter(missing)
        with self._stopping_on_signals():
            async with upstream, asyncio.TaskGroup() as group:
                for _ in range(min(self.settings.concurrency, len(missing))):
                    group.create_task(self._work(todo))

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """The first Ctrl-C waits for the answers on their way; a second one gives them up."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def on_signal() -> None:
            if self._outcome.is_interrupted:
                task.cancel()
                return
            self._outcome.is_interrupted = True
            self._stop("Stopped")
            self._progress.note("Stopping: answers on their way are waited for. Ctrl-C again gives them up.")

        set_up = []
        for number in (signal.SIGINT, signal.SIGTERM):
            # Elsewhere than in the main thread, and on Windows, signals do what they usually do.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, on_signal)
                set_up.append(number)
        try:
            yield
        finally:
            for number in set_up:
                loop.remove_signal_handler(number)

    def _stop(self, why: str, error: ModelError | RunError | None = None) -> None:
        if self._outcome.stopped is None:
            self._outcome.stopped, self._outcome.error = why, error

    async def _work(self, todo: Iterator[Question]) -> None:
        for question in todo:
            if self._outcome.stopped is not None:
                return
            try:
                await self._draft(question)
            except ModelError as error:
                self._stop("The server refuses", error)
            except RunError as error:
                self._stop("The disk is full", error)

    async def _draft(self, question: Question) -> None:
        draft = self._drafts.get(question.key)
        attempts = list(draft.attempts) if draft else []
        while not _is_done(attempts):
            messages = question.messages
            if attempts:
                messages = second_messages(messages, attempts[-1].text, attempts[-1].reasons)
            asked = await self._ask(question, messages)
            if asked is None:
                return
            attempt, answer = asked
            events = [draft_event(question.key, attempt, answer.finish_reason, answer.served_by)]
            if not attempts:
                events = [chat_event(question.key, self.model, chat) for chat in question.chats] + events
            attempts.append(attempt)
            self._keep(*events)
        self._outcome.left -= 1
        is_passed = any(not attempt.reasons for attempt in attempts)
        self._outcome.passed += is_passed
        self._outcome.to_review += not is_passed
        self._advance(1)

    async def _ask(self, question: Question, messages: Messages) -> tuple[Attempt, Answer] | None:
        """An answer, checked; None where there is none, or the work was stopped."""
        failures = paid = 0
        most = Spent(self.counter.total(messages), self.settings.max_new_tokens)
        while await self._may_ask(most):
            try:
                answer = await self._upstream.ask(self.model, messages)
            except AskAgain as error:
                self._lose(question, most, str(error), error.may_be_billed)
                failures += 1
                paid += error.may_be_billed
                is_enough = failures > self.settings.retries or paid > self.settings.paid_retries
                if not await self._wait(question, error, failures, is_enough):
                    return None
            except RefusedChat as error:
                self._budget.settle(most, Spent())
                self._fail(question, str(error))
                return None
            except ModelError:
                self._budget.settle(most, Spent())
                raise
            except asyncio.CancelledError:
                self._lose(question, most, "given up", may_be_billed=True)
                raise
            else:
                self._failures_in_a_row = 0
                self._has_answered = True
                return self._checked(question, answer, most), answer
        return None

    async def _may_ask(self, most: Spent) -> bool:
        """Wait for a place within the limits; whether there is one."""
        while not self._budget.take(most):
            if not self._budget.is_waiting:
                self._stop("The budget is used up")
            if self._outcome.stopped is not None:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        if not await self._pace.turn():
            self._budget.settle(most, Spent())
            return False
        return True

    async def _wait(self, question: Question, error: AskAgain, failures: int, is_enough: bool) -> bool:
        """Until the question may be put again; whether it may at all."""
        if error.is_unreachable and not self._has_answered:
            raise ModelError(f"{self._upstream.told} {error}. Is it the right --upstream, and is it running?")
        if error.seconds is not None and error.seconds > self.settings.longest_wait:
            asks = f"{self._upstream.told} asks to be left alone for {error.seconds:,.0f} seconds ({error})"
            raise ModelError(f"{asks}. Repeat the command then.")
        if is_enough:
            self._fail(question, f"{error} (after {failures} tries)")
            return False
        if error.seconds:
            self._pace.pause(error.seconds)
            if error.seconds >= 1:
                self._progress.note(f"The server asks to wait {error.seconds:g} seconds ({error}).")
        else:
            until = asyncio.get_running_loop().time() + backoff(failures - 1)
            while (left := until - asyncio.get_running_loop().time()) > 0 and self._outcome.stopped is None:
                await asyncio.sleep(min(left, LOOK_SECONDS))
        return self._outcome.stopped is None

    def _checked(self, question: Question, answer: Answer, most: Spent) -> Attempt:
        prompt_tokens, is_prompt_estimated = believed(answer.prompt_tokens, most.prompt_tokens)
        new_tokens, is_new_estimated = believed(answer.new_tokens, self.counter.text(answer.text))
        self._budget.settle(most, Spent(prompt_tokens, new_tokens))
        is_estimated = is_prompt_estimated or is_new_estimated
        self._outcome.estimated += is_estimated
        reasons = faults(question.text, answer.text, answer.finish_reason)
        return Attempt(answer.text, reasons, prompt_tokens, new_tokens, is_estimated)

    def _lose(self, question: Question, most: Spent, why: str, may_be_billed: bool) -> None:
        """A question without an answer. What may be charged counts, as far as it is known: what was sent."""
        lost = Spent(most.prompt_tokens if may_be_billed else 0)
        self._budget.settle(most, lost)
        if may_be_billed:
            self._outcome.lost += 1
            usage = {"prompt_tokens": lost.prompt_tokens, "completion_tokens": 0}
            self._keep({"event": "lost", "key": question.key, "why": why, "usage": usage})

    def _fail(self, question: Question, why: str) -> None:
        self._outcome.failed += [(chat.id, why) for chat in question.chats]
        self._progress.note(f"no draft of {question.chats[0].id}: {why}")
        self._advance(1)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self.settings.most_failures:
            count = self._failures_in_a_row
            raise ModelError(f"{self._upstream.told}: {count} chats in a row came to nothing, the last with: {why}.")

    def _keep(self, *events: Event) -> None:
        self.journal.append(*events)
        if self.journal.is_full:
            elsewhere = self.journal.saved_elsewhere
            hint = f" What it had no room for is in {elsewhere}: append it to that file." if elsewhere else ""
            message = (
                f"The disk of {self.journal.path} is full. All answers are kept.{hint} Make room, and repeat the "
                "command to go on."
            )
            self._stop("The disk is full", RunError(message))
            self._outcome.error = RunError(message)


def _is_done(attempts: Sequence[Attempt]) -> bool:
    return len(attempts) >= ATTEMPTS or any(not attempt.reasons for attempt in attempts)


def _is_settled(draft: Draft) -> bool:
    return draft.decision is not None or _is_done(draft.attempts)
