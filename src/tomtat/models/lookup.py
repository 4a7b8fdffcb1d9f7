"""Prompt lookup: what came after the same words before is guessed, and the network checks all guesses in one pass.

Summaries repeat their source: names, numbers, whole phrases. Tokens are chosen as they would be one by one, greedy or
drawn; those that differ from the guess are what is said, and the rest of the guess is dropped. Saxena 2023
(github.com/apoorvumang/prompt-lookup-decoding); checking: Leviathan et al. 2023, arXiv:2211.17192.
"""

from collections.abc import Sequence

LONGEST = 3
"""Tokens of an ending that is looked for; the longest known one tells what may come."""


class Lookup:
    """A prompt and what was said of it, by the endings that stood in it."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """The place after each run of one to `LONGEST` tokens, where it stood last."""
        self._prompt_length = len(prompt_ids)
        self._read(prompt_ids)

    def _read(self, ids: Sequence[int]) -> None:
        for token in ids:
            place = len(self._ids)
            for size in range(1, min(LONGEST, place) + 1):
                self._after[tuple(self._ids[place - size :])] = place
            self._ids.append(token)

    def guess(self, said: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may come after what was `said`, all of it since the prompt."""
        self._read(said[len(self._ids) - self._prompt_length :])
        for size in range(LONGEST, 0, -1):
            if place := self._after.get(tuple(self._ids[-size:])):
                # The longer the ending, the surer what follows: of one token's guesses a quarter is right.
                return self._from(place, min(most, 2 * size - 1))
        return []

    def _from(self, place: int, most: int) -> list[int]:
        """What stood there; where that reaches the end, it goes on as a loop does."""
        known = self._ids[place : place + most]
        return (known * most)[:most]
