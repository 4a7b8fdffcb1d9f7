"""Training rows as token ids, encoded when a step asks for them.

A tokenizer takes half a millisecond for a row that a training step takes many times as long for; but over 100,000 rows
before the first step it would take a minute, and their ids gigabytes.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

from tomtat.models import Encoded
from tomtat.prompts import source_text
from tomtat.types import Example

REMEMBERED = 2048
"""Rows whose ids are kept: a small data set is encoded once, and what a step asks for several times too."""

SAMPLE = 1000
"""Rows that speak for the others where there are more."""


class LazyRows(Sequence[Encoded]):
    """Examples behind a function that encodes one; what comes out depends on nothing that was asked for before."""

    def __init__(self, examples: Sequence[Example], encode: Callable[[Example], Encoded]) -> None:
        self.examples = examples
        self.encode = encode
        self._remembered: OrderedDict[int, Encoded] = OrderedDict()

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, number: int) -> Encoded: ...
    @overload
    def __getitem__(self, number: slice) -> list[Encoded]: ...
    def __getitem__(self, number: int | slice) -> Encoded | list[Encoded]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if number not in self._remembered:
            self._remembered[number] = self.encode(self.examples[number])
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return self._remembered[number]

    @cached_property
    def rough_lengths(self) -> list[int]:
        """Tokens of each row, by its characters and what a character comes to in a sample; good enough to sort by."""
        sample = spread(len(self), SAMPLE)
        if len(sample) == len(self):  # nothing to estimate
            return [len(row) for row in self]
        sizes = [_size(example) for example in self.examples]
        tokens = [len(self[number]) for number in sample]
        per_character = sum(tokens) / max(1, sum(sizes[number] for number in sample))
        longest = max(tokens)  # what is beyond is mostly cut
        return [min(longest, round(size * per_character)) for size in sizes]


def rough_lengths(rows: Sequence[Encoded]) -> Sequence[int]:
    """Tokens of each row to sort by, without encoding all of them."""
    return rows.rough_lengths if isinstance(rows, LazyRows) else [len(row) for row in rows]


class Lengths(Sequence[int]):
    """Tokens of each row, counted when they are asked for; a source's for `source_share` of a target's."""

    def __init__(self, rows: Sequence[Encoded], source_share: float = 1.0) -> None:
        self.rows = rows
        self.source_share = source_share

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> int: ...
    @overload
    def __getitem__(self, number: slice) -> list[int]: ...
    def __getitem__(self, number: int | slice) -> int | list[int]:
        return self._of(self.rows[number]) if isinstance(number, int) else [self._of(row) for row in self.rows[number]]

    def _of(self, row: Encoded) -> int:
        return math.ceil(self.source_share * len(row.prompt_ids)) + len(row.target_ids)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers from 0, evenly spread."""
    return [number * count // most for number in range(most)] if count > most else list(range(count))


def _size(example: Example) -> int:
    summary = example.references[0] if example.references else ""
    return len(source_text(example.source)) + len(summary)
