"""What metrics need of WordNet 3.0's files: synonyms of a word as it stands, and the lists of irregular forms.

NLTK's reader is not used: it opens only folders on a list of its own, takes seconds, and asks the disk for each word.
The rules are the same (tests compare them): a word's bases by the exception lists or by endings, then every synset of
every base in any part of speech.
"""

from collections import defaultdict
from functools import cache
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
_ENDINGS = {
    "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "adj": "er: est: er:e est:e",
    "adv": "",
}
"""Morphy's rules of detachment (morphy(7WN) of WordNet 3.0), ending and what takes its place."""
_RULES = {part: [tuple(rule.split(":")) for rule in rules.split()] for part, rules in _ENDINGS.items()}


class WordNet:
    """`folder` holds data.noun, noun.exc and their like (`tomtat models pull wordnet`)."""

    def __init__(self, folder: Path) -> None:
        self._synsets = {part: _synsets_by_word(folder / f"data.{part}") for part in PARTS}
        self._exceptions = {part: read_exceptions(folder / f"{part}.exc") for part in PARTS}

    def synonyms(self, word: str) -> frozenset[str]:
        """All single words that share a synset with a base of `word` in any part of speech; lower case."""
        found: set[str] = set()
        for part in PARTS:
            for base in self._bases(word.lower(), part):
                for synset in self._synsets[part][base]:
                    found.update(synset)
        return frozenset(found)

    def _bases(self, word: str, part: str) -> list[str]:
        bases = self._exceptions[part].get(word)
        if bases is None:
            bases = [word[: -len(old)] + new for old, new in _RULES[part] if word.endswith(old)]
        return [base for base in dict.fromkeys([word, *bases]) if base in self._synsets[part]]


def _synsets_by_word(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Lines of a data file: offset, file number, type, count in hexadecimal, then each word and its sense number."""
    found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        fields = line.partition("|")[0].split()
        # Adjectives may carry their place in brackets: "elect(ip)".
        words = [fields[4 + 2 * n].partition("(")[0].lower() for n in range(int(fields[3], 16))]
        synset = tuple(word for word in words if "_" not in word)
        for word in words:
            found[word].append(synset)
    return dict(found)


def read_exceptions(path: Path) -> dict[str, list[str]]:
    """Irregular forms and their bases: `geese goose`."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {form: bases for form, *bases in lines if bases}


@cache
def load_wordnet(folder: Path) -> WordNet:
    return WordNet(folder)
