"""What a tokenizer loses: characters that it has no token for, and line breaks that it reads as spaces.

FLAN-T5's knows English, French, German and Romanian. Of `Nguyễn` it reads all but the `ễ`, without a word of warning: a
model can't learn what it never sees. Texts are looked at as a model would get them back, word by word.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

ROWS = 500
"""Texts that are looked at, spread evenly; a character that stands in one row of a thousand may be missed."""

_INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")
"""Unicode's categories of what is no loss to a reader: controls, format characters, spaces."""


@dataclass(frozen=True)
class Lost:
    """Characters that do not come back from a tokenizer, and what they were among."""

    characters: Counter[str]
    """How often each was lost. A capital that comes back small counts as lost; a form of the same character in
    Unicode's NFKC does not."""
    seen: int
    """Visible characters looked at."""
    words: dict[str, str]
    """Words that lose the worst characters, each with what comes back of it: `{"Nguyễn": "Nguyn"}`."""
    texts_hit: int
    """Texts in which at least one character is lost."""
    texts: int
    """Texts looked at."""
    line_breaks: int
    """Line breaks that come back as spaces or not at all; these are not among `characters`."""

    def __bool__(self) -> bool:
        """Whether a character is lost; line breaks are a case of their own."""
        return bool(self.characters)

    @property
    def share(self) -> float:
        """Of the visible characters, those lost; between 0 and 1."""
        return self.characters.total() / self.seen if self.seen else 0.0

    def told(self, worst: int = 8, examples: int = 2) -> str:
        """One line without an end: `0.8 % of characters, in 31 of 40 texts: ễ (12); "Nguyễn" is read "Nguyn"`."""
        named = ", ".join(f"{_visible(one)} ({count:,})" for one, count in self.characters.most_common(worst))
        more = f" and {len(self.characters) - worst:,} others" if len(self.characters) > worst else ""
        read = "; ".join(f"{_short(word)} is read {_short(back)}" for word, back in [*self.words.items()][:examples])
        share = f"{100 * self.share:.1f} %" if self.share >= 0.0005 else "less than 0.1 %"
        return f"{share} of characters, in {self.texts_hit:,} of {self.texts:,} texts: {named}{more}; {read}"


def lost_characters(tokenizer: Any, texts: Sequence[str], rows: int = ROWS) -> Lost:
    """What a Transformers tokenizer loses of at most `rows` of the texts. A second for some megabytes.

    Distinct words go through once. Special tokens that stand in a text are left out of it.
    """
    texts = _sample(texts, rows)
    special = sorted({str(token) for token in tokenizer.all_special_tokens}, key=len, reverse=True)
    in_texts = [Counter(_words(text, special)) for text in texts]
    words: Counter[str] = Counter()
    for found in in_texts:
        words.update(found)  # in place: a sum of counters copies all of them at each step
    returned = dict(zip(words, _returned(tokenizer, list(words)), strict=True))
    losses = {word: lost for word, back in returned.items() if (lost := _lost(word, back))}
    characters: Counter[str] = Counter()
    for word, lost in losses.items():
        for character, count in lost.items():
            characters[character] += count * words[word]
    breaks = 0 if _keeps_line_breaks(tokenizer) else sum(text.strip().count("\n") for text in texts)
    return Lost(
        characters=characters,
        seen=sum(sum(map(_is_visible, word)) * count for word, count in words.items()),
        words={word: returned[word] for word in _examples(characters, losses, words)},
        texts_hit=sum(any(word in losses for word in found) for found in in_texts),
        texts=len(texts),
        line_breaks=breaks,
    )


def warnings_of(tokenizer: Any, sources: Sequence[str], summaries: Sequence[str], model: str) -> list[str]:
    """What to tell somebody who is about to train `model` on these texts: whole lines, none where nothing is lost."""
    read, written = lost_characters(tokenizer, sources), lost_characters(tokenizer, summaries)
    lines = [
        f"Careful: the tokenizer of {model} loses characters of the {what}, {lost.told()}"
        for what, lost in (("texts", read), ("summaries", written))
        if lost
    ]
    if lines:
        lines.append(
            "What is lost can be neither read nor written. Take a model made for this language (mT5 reads most "
            "scripts; byte-level tokens, such as those of smollm2-135m-instruct, lose nothing), or put other "
            "characters in their place in the data"
        )
    if read.line_breaks:
        lines.append(
            f"The tokenizer of {model} reads line breaks as spaces ({read.line_breaks:,} in {read.texts:,} texts): "
            "turns of a chat run into each other, and only their `Name:` tells them apart"
        )
    if written.line_breaks:
        lines.append(
            f"Summaries of {model} come as one line: the line breaks in yours ({written.line_breaks:,} in "
            f"{written.texts:,}) are lost"
        )
    return lines


def _sample(texts: Sequence[str], rows: int) -> list[str]:
    step = max(1.0, len(texts) / rows)
    return [texts[int(number * step)] for number in range(min(rows, len(texts)))]


def _words(text: str, special: Iterable[str]) -> list[str]:
    # One form of each accent: a tokenizer that joins `e` and its accent loses neither.
    text = unicodedata.normalize("NFC", text)
    for token in special:
        text = text.replace(token, " ")
    return text.split()


def _returned(tokenizer: Any, words: list[str]) -> list[str]:
    if not words:
        return []
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in ids]


def _lost(word: str, back: str) -> Counter[str]:
    """Characters of the word that are not in what came back, as the word writes them: `…`, not three dots."""
    missing = _characters(word) - _characters(back)
    lost: Counter[str] = Counter()
    for one in word if missing else "":
        if (form := _characters(one)) & missing:
            missing -= form
            lost[one] += 1
    return lost


def _characters(text: str) -> Counter[str]:
    return Counter(filter(_is_visible, unicodedata.normalize("NFKC", text)))


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in _INVISIBLE


def _keeps_line_breaks(tokenizer: Any) -> bool:
    return "\n" in _returned(tokenizer, ["a\nb"])[0]


def _examples(characters: Counter[str], losses: dict[str, Counter[str]], words: Counter[str]) -> list[str]:
    """For each of the worst characters the word that loses it most often, and of which something is left."""

    def told_best(word: str) -> tuple[bool, int]:
        return losses[word].total() < len(word), words[word]

    found = dict.fromkeys(
        max((word for word, lost in losses.items() if one in lost), key=told_best)
        for one, _ in characters.most_common(5)
    )
    return list(found)


def _visible(character: str) -> str:
    """A combining mark stands on a circle; alone it would sit on the quote beside it."""
    return f"\u25cc{character}" if unicodedata.combining(character) else character


def _short(word: str) -> str:
    return f'"{word}"' if len(word) <= 24 else f'"{word[:23]}…"'
