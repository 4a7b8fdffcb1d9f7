"""How long the metrics take: pairs of CNN/DailyMail's size through all but BERTScore, generation apart.

    taskset -c 0 python benchmarks/metric_speed.py data/cnn_dailymail/train.jsonl[:1000]

Predictions are lead-3. Ours and the plain peers (rouge-score with its stemmer, sacreBLEU's corpus_score, NLTK's
meteor_score) alternate, three rounds, medians; every round starts with empty caches. One line of JSON last.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

from tomtat.config import METRICS, EvaluateSettings
from tomtat.data import load_examples
from tomtat.evaluation import lead3
from tomtat.metrics import Rows, Scorer
from tomtat.metrics.values import score_rows
from tomtat.prompts import source_text

ROUNDS = 3


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peers(predictions: list[str], rows: Rows) -> dict[str, Callable[[], object]]:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    references = [texts[0] for texts in rows.references]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    return {
        "rouge": lambda: [scorer.score(a, b) for a, b in zip(references, predictions, strict=True)],
        "bleu": lambda: BLEU().corpus_score(predictions, [references]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="chats@train")
    options = parser.parse_args()
    examples = load_examples(options.data)
    sources = [source_text(example.source) for example in examples]
    rows = Rows([example.references for example in examples], sources, [example.facts for example in examples])
    predictions = [lead3(example.source) for example in examples]
    names = [name for name in METRICS if name != "bertscore"]
    ours: dict[str, list[float]] = {name: [] for name in [*names, "intervals"]}
    theirs: dict[str, list[float]] = {name: [] for name in peers(predictions, rows)}
    not_run: dict[str, str] = {}
    for _ in range(ROUNDS):
        values = []
        for name in names:
            scorer = Scorer(rows, EvaluateSettings(metrics=[name]))
            not_run |= scorer.not_run
            started = time.perf_counter()
            for metric in scorer._metrics:
                values += metric.measure(predictions, rows).values
            ours[name].append(time.perf_counter() - started)
            if name in theirs:
                theirs[name].append(timed(peers(predictions, rows)[name]))
        ours["intervals"].append(timed(lambda: score_rows(values)))  # noqa: B023
    medians = {name: median(times) for name, times in ours.items()}
    ratios = {f"{name}_over_plain": median(times) / medians[name] for name, times in theirs.items()}
    print(f"{len(examples)} pairs\n{'metric':<14} {'seconds':>8} {'pairs/s':>9}")
    for name, seconds in medians.items():
        print(f"{name:<14} {seconds:>8.2f} {len(examples) / seconds:>9.0f}")
    total = sum(medians.values())
    print(f"{'all':<14} {total:>8.2f} {len(examples) / total:>9.0f}")
    for name, why in not_run.items():
        print(f"not run: {name}: {why}")
    print(json.dumps({"pairs": len(examples), "seconds": total, "by_metric": medians, **ratios, "not_run": not_run}))


if __name__ == "__main__":
    main()
