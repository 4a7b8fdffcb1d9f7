"""Generation with torch: any model, any adapter."""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence

import torch

from tomtat.batching import micro_batches
from tomtat.config import LOOKUP_TOKENS
from tomtat.engines.base import Engine
from tomtat.models import Decoding, Encoded, SummarizerModel
from tomtat.models.attention import quick_attention
from tomtat.models.beams import Beams
from tomtat.models.decoding import Lane, choose, without_repeats
from tomtat.models.lanes import Lanes, Remembered, order_of
from tomtat.types import Generation

JOIN_FROM = 0.25
"""Share of the token budget that must be free before new rows join: read one by one they would cost more."""

REMEMBERED_ADAPTERS = 8

ALIKE = 0.8
"""Share of the longest prompt of a batch that the shortest has at least, where there are enough."""

READ_FROM = 512
"""Tokens, padding among them, from which a batch of prompts is large enough."""

READ_TO = 2048
"""Tokens that a batch of several prompts has at most: what lies between two layers must lie in the processor's cache,
and more of it at once is asked of the system anew each time, page by page."""


class TorchEngine(Engine):
    def __init__(
        self, model: SummarizerModel, batch_tokens: int = 8192, name: str = "torch", lookup_tokens: int = LOOKUP_TOKENS
    ) -> None:
        self.model = model
        self.name = name
        self.batch_tokens = batch_tokens
        self.lookup_tokens = lookup_tokens
        """How many go through the network at a time, guesses among them. As long as these are few, what takes time is
        reading its weights."""
        self.most_lookup_tokens: int | None = None
        """More than so many its weights do not go through at the price of one; None: as many as are asked for."""
        self._remembered: dict[str, Remembered] = {}

    def finished(self, rows: Sequence[Encoded], decoding: Decoding) -> Iterator[tuple[int, list[Generation]]]:
        """Rows' numbers with their generations, as they come."""
        if not self.model.has_lanes:
            yield from self._by_batches(rows, decoding)
            return
        flight = Flight(self)
        # Longest first, so that those side by side are alike and the last ones to join are short.
        waiting = deque(sorted(range(len(rows)), key=lambda row: -len(rows[row].prompt_ids)))
        while waiting or flight.jobs:
            while waiting and flight.has_room(rows[waiting[0]], decoding):
                row = waiting.popleft()
                flight.add(Job(rows[row], decoding, row))
            for job in flight.step():
                yield job.number, job.generations

    def stream(self, row: Encoded, decoding: Decoding) -> Iterator[str | Generation]:
        """Pieces of one summary as they come, and at last the whole of it."""
        if decoding.method in ("beam", "mbr") or not self.model.has_lanes:
            generation = self.candidates([row], decoding)[0][0]
            yield generation.text
            yield generation
            return
        flight, said = Flight(self), ""
        job = Job(row, decoding)
        flight.add(job)
        while not flight.step():
            text = self.model.generation(row, flight.lanes[0].ids).text
            # Half a character comes out as U+FFFD; the next token completes it.
            if text.startswith(said) and not text.endswith("\ufffd") and len(text) > len(said):
                yield text[len(said) :]
                said = text
        (generation,) = job.generations
        if generation.text[len(said) :]:
            yield generation.text[len(said) :]
        yield generation

    @property
    def remembered(self) -> Remembered:
        """What was computed under the weights that are active now."""
        key = self.model.weights_key
        if key not in self._remembered:
            # Those used longest ago go first: names come and go in a server that swaps adapters.
            for old in list(self._remembered)[: 1 - REMEMBERED_ADAPTERS]:
                del self._remembered[old]
        self._remembered[key] = self._remembered.pop(key, Remembered())
        return self._remembered[key]

    def _by_batches(self, rows: Sequence[Encoded], decoding: Decoding) -> Iterator[tuple[int, list[Generation]]]:
        lengths = [decoding.lanes * (len(row.prompt_ids) + decoding.max_new_tokens) for row in rows]
        for batch in micro_batches(range(len(rows)), lengths, self.batch_tokens):
            yield from zip(batch, self.model.generate([rows[row] for row in batch], decoding), strict=True)


class Job:
    """A prompt on its way to its generations."""

    def __init__(self, row: Encoded, decoding: Decoding, number: int = 0) -> None:
        self.row = row
        self.decoding = decoding
        self.number = number
        self.beams: Beams | None = None
        """Where it is searched for by beams, from its first token on."""
        self._found: dict[int, Generation] = {}

    @property
    def width(self) -> int:
        """Tokens of one lane, at most."""
        return len(self.row.prompt_ids) + self.decoding.max_new_tokens

    @property
    def is_done(self) -> bool:
        return len(self._found) == self.decoding.candidates

    @property
    def generations(self) -> list[Generation]:
        return [self._found[copy] for copy in range(self.decoding.candidates)]

    def finish(self, lane: Lane, generation: Generation) -> None:
        self._found[lane.copy] = generation

    def answer(self, generations: Sequence[Generation]) -> None:
        """All at once, by what does not go lane by lane."""
        self._found = dict(enumerate(generations))


def read_together(jobs: Sequence[Job]) -> list[list[Job]]:
    """Batches of jobs with as many lanes each, whose prompts are of like length: padding is read like any other token.

    One of `READ_FROM` tokens takes the processor's whole rate; more than `READ_TO` at once are slower.
    """
    batches: list[list[Job]] = []
    for job in sorted(jobs, key=lambda job: (job.decoding.lanes, -len(job.row.prompt_ids))):
        batch = batches[-1] if batches else []
        if batch and batch[0].decoding.lanes == job.decoding.lanes:
            widest = len(batch[0].row.prompt_ids)
            alike = len(job.row.prompt_ids) >= ALIKE * widest and widest * (len(batch) + 1) <= READ_TO
            if alike or widest * len(batch) < READ_FROM:
                batch.append(job)
                continue
        batches.append([job])
    return batches


class Flight:
    """Jobs that are decoded together, step by step; others join between two steps, done ones leave."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self.model = engine.model
        self.model.network.eval()
        self.ends = set(self.model.end_token_ids())
        self._shares_prompts = self.model.shares_prompts
        self.lanes: list[Lane] = []
        self.jobs: list[Job] = []
        """The job of each lane, then of those that join at the next step."""
        self._network: Lanes | None = None
        self._new: list[Job] = []

    def has_room(self, row: Encoded, decoding: Decoding) -> bool:
        if not self.jobs:
            return True
        widest = max([len(row.prompt_ids) + decoding.max_new_tokens, *(job.width for job in self.jobs)])
        budget, spared = self.engine.batch_tokens, self._spared()
        if self.lanes and not self._new and widest * len(self.lanes) - spared > (1 - JOIN_FROM) * budget:
            return False
        spared += len(row.prompt_ids) * (decoding.lanes - 1) * self._shares_prompts
        return widest * (len(self.jobs) + decoding.lanes) - spared <= budget

    def _spared(self) -> int:
        """Tokens of prompts that several lanes read and that are there once."""
        if not self._shares_prompts or len(set(self.jobs)) == len(self.jobs):
            return 0
        return sum((lanes - 1) * len(job.row.prompt_ids) for job, lanes in Counter(self.jobs).items())

    def add(self, job: Job) -> None:
        self._new.append(job)
        self.jobs += [job] * job.decoding.lanes

    @torch.inference_mode()
    def drop(self, gone: Collection[Job]) -> None:
        """Go on without these; their room is free."""
        flying = len(self.lanes)
        order = order_of([number for number in range(flying) if self.jobs[number] not in gone])
        self._new = [job for job in self._new if job not in gone]
        self.lanes = [self.lanes[number] for number in order]
        self.jobs = [self.jobs[n] for n in order] + [job for job in self.jobs[flying:] if job not in gone]
        if order and len(order) < flying and self._network is not None:
            self._network.keep(order)

    @torch.inference_mode()
    def step(self) -> list[Job]:
        """One token in each lane, or more where they were guessed; the jobs that are done with it."""
        with quick_attention():
            return self._step()

    def _step(self) -> list[Job]:
        done = self._start() if self._new else []
        if self.lanes:
            assert self._network is not None
            guesses = self._guesses(self._network)
            self._network.advance([[lane.ids[-1], *guess] for lane, guess in zip(self.lanes, guesses, strict=True)])
            self._choose(self._network, self.lanes, self.jobs, guesses)
            done += self._land()
        return done

    def _guesses(self, network: Lanes) -> list[list[int]]:
        """What each lane may say next, where there is room to check it."""
        tokens = self.engine.lookup_tokens
        if self.engine.most_lookup_tokens is not None:
            tokens = min(tokens, self.engine.most_lookup_tokens)
        most = tokens // len(self.lanes) - 1
        if most < 1 or not network.takes_several or any(job.beams for job in self.jobs):
            return [[] for _ in self.lanes]
        return [lane.guess(most) for lane in self.lanes]

    def _choose(self, network: Lanes, lanes: list[Lane], jobs: list[Job], guesses: Sequence[list[int]] = ()) -> None:
        """The next token of a network's lanes, with their jobs; and those after it, as far as it was guessed right.

        Of guesses the network then remembers those that were, and lanes of beams go on from the best of them.
        """
        logits = network.logits.float()
        lengths = [len(lane.ids) for lane in lanes]
        going = [number for number, job in enumerate(jobs) if job.beams is None]
        for place in range(logits.shape[1]):
            here = logits[:, place]
            tokens = choose(here if len(going) == len(lanes) else here[going], [lanes[number] for number in going])
            for number, token in zip(going, tokens, strict=True):
                lanes[number].ids.append(token)
            going = [
                number
                for number in going
                if guesses
                and lanes[number].ids[-1:] == guesses[number][place : place + 1]
                and not self._is_over(lanes[number], jobs[number])
            ]
            if not going:
                break
        if any(guesses):
            network.settle([len(lane.ids) - length for lane, length in zip(lanes, lengths, strict=True)])
        self._search(network, lanes, jobs)

    def _search(self, network: Lanes, lanes: list[Lane], jobs: list[Job]) -> None:
        """The next token of beams, whose lanes go on from the best of them."""
        sources, recent = list(range(len(lanes))), 0
        for job in dict.fromkeys(job for job in jobs if job.beams):
            assert job.beams
            # By their numbers: lanes that moved when others left stand in another order.
            places = [place for place, other in enumerate(jobs) if other is job]
            places.sort(key=lambda place: lanes[place].copy)
            said = [lanes[place].ids for place in places]
            log_probs = network.logits[places, -1].float().log_softmax(-1)
            log_probs = without_repeats(log_probs, [lanes[place] for place in places])
            for place, (beam, token) in zip(places, job.beams.step(log_probs, said), strict=False):
                sources[place] = places[beam]
                lanes[place].ids = [*said[beam], token]
            recent = max(recent, len(said[0]))
        if sources != list(range(len(lanes))):
            network.branch(sources, recent)

    def _is_over(self, lane: Lane, job: Job) -> bool:
        if job.beams:
            return job.beams.is_done
        return lane.ids[-1] in self.ends or len(lane.ids) == lane.decoding.max_new_tokens

    def _start(self) -> list[Job]:
        """Read the prompts of new jobs, and say the first token of each; those that end with it."""
        batches = read_together(self._new)
        for jobs in batches:
            count = jobs[0].decoding.lanes
            started = self.model.start([job.row for job in jobs], self.engine.remembered)
            if count > 1:
                started.repeat(count)
            for job in jobs:
                job.beams = Beams(job.decoding, self.ends) if job.decoding.num_beams > 1 else None
            lanes = [Lane(job.row.prompt_ids, job.decoding, copy) for job in jobs for copy in range(count)]
            self._choose(started, lanes, [job for job in jobs for _ in range(count)])
            if self.lanes and self._network is not None:
                self._network.join(started)
            else:
                self._network = started
            self.lanes += lanes
        joined = [job for jobs in batches for job in jobs for _ in range(job.decoding.lanes)]
        self.jobs[len(self.jobs) - len(joined) :] = joined
        self._new = []
        return self._land()

    def _land(self) -> list[Job]:
        """Lanes whose summary has ended leave; the jobs that are done with it."""
        is_over = [self._is_over(lane, job) for lane, job in zip(self.lanes, self.jobs, strict=True)]
        if not any(is_over):
            return []
        done = []
        for job in dict.fromkeys(job for job in self.jobs if job.beams and job.beams.is_done):
            assert job.beams
            job.answer([self.model.generation(job.row, ids) for ids in job.beams.best[: job.decoding.candidates]])
            done.append(job)
        for lane, job, over in zip(self.lanes, self.jobs, is_over, strict=True):
            if over and not job.beams:
                job.finish(lane, self.model.generation(job.row, lane.ids, lane.near_ties))
                if job.is_done:
                    done.append(job)
        order = order_of([number for number, over in enumerate(is_over) if not over])
        self.lanes, self.jobs = [self.lanes[n] for n in order], [self.jobs[n] for n in order]
        if order and self._network is not None:
            self._network.keep(order)
        return done
