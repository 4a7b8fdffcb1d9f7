"""What follows from a check, in words: what must be put right, what deserves a look, and what to do about each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tomtat.checking.report import Overlap, SplitReport, Verdict
from tomtat.checking.suggest import percent, share

COPIED_SHARE = 0.01
"""From this share of a split on, rows that stand in another word for word make scores a problem..."""
SEEN_SHARE = 0.05
"""...and from this one with those that do by half: short ones may only open alike."""
LOST_SHARE = 0.005
"""Of visible characters, from where on what a tokenizer loses is a problem."""
CUT_SHARE = 0.1
"""Of sources that the input limit cuts, from where on it deserves a look."""
TOKENS_PER_WORD = 2.5
"""From here on a model was hardly made for a language: the embedded one needs 1.4 for English news, 1.6 for English
chats, and 3.5 for a syllable of Vietnamese."""
NOWHERE_SHARE = 0.2
"""Of summaries with a number or a name from nowhere. Some are always there: people sum up, and write the name of a day
that the source calls tomorrow."""
ODD_SHARE = 0.01
"""Of rows, for all other oddities."""
FEW_ROWS = 100
"""With fewer rows a tuned model has mostly learned a style."""

_ODD: tuple[tuple[tuple[str, ...], float, str, str], ...] = (
    (
        ("number", "name"),
        NOWHERE_SHARE,
        "Summaries with a number or a name that stands nowhere in the source",
        "A model learns to invent from these; read some.",
    ),
    (
        ("language", "mixed"),
        ODD_SHARE,
        "Summaries in another language than the source, or in two scripts",
        "A model learns to switch; drop them.",
    ),
    (("not shorter",), ODD_SHARE, "Summaries no shorter than their source", "There is little to learn in these."),
    (
        ("beginning",),
        ODD_SHARE,
        "Summaries that are the beginning of their source",
        "They teach copying; a first-sentences baseline needs no model.",
    ),
    (
        ("repeated",),
        ODD_SHARE,
        "One summary for several different sources",
        "A model learns to say it whatever it reads; drop what is a formula.",
    ),
    (("no words",), 0.0, "Rows without a word in source or summary", "Drop them."),
    (("one speaker",), ODD_SHARE, "Conversations with one speaker only", "Were the others lost on the way?"),
)


def judge(splits: Sequence[SplitReport], overlaps: Sequence[Overlap]) -> Verdict:
    usable = [split for split in splits if split.rows]
    problems = [*_bad(splits), *_lost(usable, is_problem=True)]
    remarks = [
        *_few(usable),
        *_repeats(usable),
        *_limits(usable),
        *_foreign(usable),
        *_lost(usable, is_problem=False),
        *_odd(usable),
    ]
    for overlap in overlaps:
        if overlap.seen:
            (problems if _is_leak(overlap) else remarks).append(_about(overlap))
    return Verdict(problems, remarks)


def _bad(splits: Sequence[SplitReport]) -> Iterator[str]:
    if any(split.bad for split in splits):
        found = _counted(splits, lambda split: len(split.bad), lambda split: split.rows + len(split.bad))
        yield f"Rows that can't be used: {found}. Repair them, or train with --on-bad-row skip, which leaves them out."
    for split in splits:
        if not split.rows:
            yield f"No row of {split.label} can be used. Are the fields named right (--source-field, --summary-field)?"


def _few(splits: Sequence[SplitReport]) -> Iterator[str]:
    for split in splits:
        if split.rows < FEW_ROWS and (split.label == "train" or len(splits) == 1):
            yield f"{split.rows:,} rows are few: a model learns the style of the summaries from them, and little more."


def _languages(splits: Sequence[SplitReport]) -> Iterator[str]:
    main = {split.label: split.languages.most_common(1)[0][0][0] for split in splits}
    if len(set(main.values())) > 1:
        told = ", ".join(f"{language} in {label}" for label, language in main.items())
        yield f"The splits are in different languages: {told}. Do they belong together?"


def _repeats(splits: Sequence[SplitReport]) -> Iterator[str]:
    if any(split.duplicates.superfluous >= ODD_SHARE * split.rows for split in splits):
        found = _counted(splits, lambda split: split.duplicates.superfluous)
        yield (
            f"Rows that say what an earlier row says, or nearly: {found}. They count twice; "
            "tomtat data dedupe leaves them out."
        )
    if any(split.duplicates.conflicting for split in splits):
        found = _counted(splits, lambda split: split.duplicates.conflicting)
        yield (
            f"Rows with the source of an earlier row and another summary: {found}. "
            "Join these: one row may have several summaries, as the list `references`."
        )


def _limits(splits: Sequence[SplitReport]) -> Iterator[str]:
    cut = [(split, split.source_cut) for split in splits if split.source_cut]
    if any(found.row_share >= CUT_SHARE for _, found in cut):
        rows = {split.label: found.rows for split, found in cut}
        tokens = max(found.token_share for _, found in cut)
        yield (
            f"Sources cut at {cut[0][1].limit:,} tokens: {_counted(splits, lambda split: rows[split.label])}; up to "
            f"{percent(tokens)} of all tokens are not read in training. Raise data.max_source_tokens, or see that what "
            "matters comes first."
        )


def _foreign(splits: Sequence[SplitReport]) -> Iterator[str]:
    needed = {split.label: split.tokens_per_word or 0.0 for split in splits}
    if max(needed.values(), default=0.0) >= TOKENS_PER_WORD:
        each = ", ".join(f"{tokens:.1f} in {label}" for label, tokens in needed.items())
        yield f"Tokens the model needs for a word: {each}. It was hardly made for this language: try one that was."


def _lost(splits: Sequence[SplitReport], is_problem: bool) -> Iterator[str]:
    for split in splits:
        lost = split.unread
        if lost and lost.told and (lost.share >= LOST_SHARE) is is_problem:
            yield f"Characters of {split.label} that the tokenizer loses: {lost.told}. Take a model for this language."
    if not is_problem and any(split.unread and split.unread.line_breaks for split in splits):
        yield "The tokenizer reads line breaks as spaces: turns of a chat run into each other, and lists into one line."


def _odd(splits: Sequence[SplitReport]) -> Iterator[str]:
    for kinds, least, what, advice in _ODD:
        count = partial(_rows_with, kinds)
        if any(count(split) and count(split) >= least * split.rows for split in splits):
            yield f"{what}: {_counted(splits, count)}. {advice}"


def _rows_with(kinds: Sequence[str], split: SplitReport) -> int:
    return len({one.row for kind in kinds for one in split.suspicions.get(kind, ())})


def _is_leak(overlap: Overlap) -> bool:
    copied = len(overlap.exact)
    return 0 < copied >= COPIED_SHARE * overlap.rows or overlap.seen >= SEEN_SHARE * overlap.rows


def _about(overlap: Overlap) -> str:
    return (
        f"Rows of {overlap.label} that stand in {overlap.other} too: {share(overlap.seen, overlap.rows)}, of which "
        f"{len(overlap.exact):,} word for word, the others by half of their runs of eight words. Scores on these say "
        f"little about new texts: take them out of {overlap.other}."
    )


def _counted(
    splits: Sequence[SplitReport],
    count: Callable[[SplitReport], int],
    of: Callable[[SplitReport], int] = lambda split: split.rows,
) -> str:
    """`536 of 1,363 in train (39.3 %), 38 of 100 in validation (38.0 %)`."""
    found = [(split, count(split), of(split)) for split in splits if count(split)]
    if len(splits) == 1:
        return share(found[0][1], found[0][2])
    return ", ".join(
        f"{rows:,} of {total:,} in {split.label} ({percent(rows / total)})" for split, rows, total in found
    )
