"""What systems and headline metrics are called."""

from collections.abc import Iterable

TUNED, UNTUNED, LEAD3, ORACLE, FLOOR, HUMAN = "tuned", "untuned", "lead-3", "oracle", "other-row", "human"
EXACT = "exact"
ORDER = (FLOOR, LEAD3, ORACLE, HUMAN, UNTUNED, EXACT, TUNED)
YARDSTICKS = {
    FLOOR: "the reference of another row: a floor",
    LEAD3: "the first three sentences or turns",
    ORACLE: "the sentences or turns nearest to the references: what copying could reach",
    HUMAN: "each reference against the others of its row",
    UNTUNED: "the base model before fine-tuning",
    EXACT: "the tuned model by the torch engine, without rounding to 8 bits",
}
_FIRST = ("rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "meteor", "bertscore")
OTHER_PROTOCOLS = ("rouge155-1", "rouge155-2", "rouge155-L", "rouge155-Lsum", "bleu-nltk")


def headline(have: Iterable[str]) -> list[str]:
    """The metrics of quality that tables and verdicts are made of; other protocols only where there is nothing else."""
    names = set(have)
    return [name for name in _FIRST if name in names] or [name for name in OTHER_PROTOCOLS if name in names]
