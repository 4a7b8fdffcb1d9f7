"""What a summary must be before it may stand for its source, told without a model.

Not whether it is good, which no rule can tell, but whether it is one of the failures that have been kept as if they
were summaries: nothing, an error's text, the placeholder of a prompt, half a sentence, a loop, another language, people
and numbers that nobody mentioned. A chat's memory and the drafts of `tomtat label` are held to it.
"""

from collections import Counter
from collections.abc import Sequence

from tomtat.text.details import Details, details
from tomtat.text.fragments import ngrams
from tomtat.text.language import language_of
from tomtat.text.sentences import sentences
from tomtat.text.terms import terms
from tomtat.text.words import words
from tomtat.types import Generation

MOST_REPEATED = 0.2
"""Share of trigrams that stood in the summary before. The references of our chats and of DialogSum stay below 0.1."""
LEAST_OF_SOURCE = 0.5
"""Share of a summary's terms that its source has. An error's text or a prompt's placeholder has next to none."""
FEWEST_WORDS = 3


class Source:
    """What a summary is held against: the text, as the summarizer read it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.details = Details(text)
        self.terms = frozenset(terms(text))
        self.language = language_of([text])
        self.words = len(words(text))

    def refuse(self, generation: Generation) -> tuple[str, ...]:
        """Why a generation may not stand for the source; empty where it may."""
        text = generation.text
        said = words(text)
        if len(said) < min(FEWEST_WORDS, self.words):
            return ("empty",) if not said else ("nearly empty",)
        reasons = []
        if len(said) >= self.words or len(text) >= len(self.text):
            reasons.append("not shorter than what it stands for")
        if generation.finish_reason != "stop":
            reasons.append("cut at the limit")
        if getattr(generation, "share_read", 1.0) < 1:
            reasons.append("made from the beginning alone")
        if (language := language_of([text])) != self.language:
            reasons.append(f"in {language}, not {self.language}")
        if is_repetitive(text, said):
            reasons.append("repeats itself")
        found = terms(text)
        if sum(term in self.terms for term in found) < LEAST_OF_SOURCE * len(found):
            reasons.append("hardly a word of it was said")
        foreign = [detail for detail in details(text, self.details) if not self.details.has(detail)]
        reasons += [f"{detail.kind} from nowhere: {detail.text}" for detail in foreign]
        return tuple(reasons)


def is_repetitive(text: str, said: Sequence[str]) -> bool:
    """The same sentence twice, or the same words over and over."""
    lines = [tuple(words(line)) for line in sentences(text)]
    if any(count > 1 for line, count in Counter(lines).items() if len(line) > 2):
        return True
    grams = ngrams(said, 3)
    return len(grams) - len(set(grams)) > MOST_REPEATED * len(grams)
