"""The gate: what a summary must be before it may stand for the turns it was made from.

Not whether it is good, which no rule can tell, but whether it is one of the failures that memories in the field have
kept as if they were summaries: nothing, an error's text, the placeholder of a prompt, half a sentence, a loop, another
language, people and numbers that nobody mentioned.
"""

from dataclasses import dataclass

from tomtat.text.faults import Source as Source


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said of one text."""

    text: str
    how: str
    """How it was made: `whole`, `smaller`, `drawn`, `extract`."""
    first: int
    last: int
    """The turns it was made from."""
    reasons: tuple[str, ...] = ()
    """Why it was refused; none where it passed."""

    @property
    def passed(self) -> bool:
        return not self.reasons
