"""Which metric goes with what people say? Every metric against SummEval's four expert ratings.

    python benchmarks/metric_correlation.py data/summeval/human.jsonl

100 CNN/DailyMail articles, 16 systems each (Fabbri et al. 2021). Summary level: Kendall's tau-b among the 16 summaries
of each article, mean over articles. System level: tau-b among the 16 systems' means. Intervals: articles drawn anew,
95 %, seed 0. References: the first one (the original), and the best of all 11.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from tomtat.metrics import Rows, Scorer

RATINGS = ("coherence", "consistency", "fluency", "relevance")
RESAMPLES = 500


def summary_level(metric: np.ndarray, rating: np.ndarray) -> np.ndarray:
    """(articles, systems) twice to (articles,); not a number where one side is constant or one metric missing."""
    return np.array([kendalltau(m, r).statistic for m, r in zip(metric, rating, strict=True)])


def system_level(metric: np.ndarray, rating: np.ndarray) -> float:
    return float(kendalltau(np.nanmean(metric, axis=0), rating.mean(axis=0)).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    articles = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    summaries = [system["summary"] for article in articles for system in article["systems"]]
    systems = len(articles[0]["systems"])
    ratings = {
        name: np.array([[system[name] for system in article["systems"]] for article in articles]) for name in RATINGS
    }
    measured: dict[str, np.ndarray] = {}
    for label, references in (("1 reference", "reference"), ("11 references", "references")):
        texts = [
            tuple([article[references]] if references == "reference" else article[references])
            for article in articles
            for _ in range(systems)
        ]
        sources = [article["article"] for article in articles for _ in range(systems)]
        scorer = Scorer(Rows(texts, sources))
        print(f"{label}: not run {scorer.not_run or 'nothing'}", flush=True)
        for metric in scorer.score(summaries).values:
            best = references == "references"
            quality = metric.name.startswith(("rouge", "bleu", "meteor", "bertscore"))
            if (best and quality and metric.name.endswith(("-best", "bleu", "bleu-nltk"))) or (not best):
                suffix = f" [{label}]" if quality else ""
                values = metric.per_row.reshape(len(articles), systems)
                if np.isfinite(values).any() and np.nanstd(values) > 0:
                    measured[metric.name + suffix] = values
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(articles), (RESAMPLES, len(articles)))
    results: dict[str, dict[str, dict[str, list[float]]]] = {"summary": {}, "system": {}}
    for level in results:
        print(f"\n{level} level, Kendall's tau-b x100\n{'metric':<32}" + "".join(f"{name:>22}" for name in RATINGS))
        for name, values in measured.items():
            cells = []
            for rating in RATINGS:
                if level == "summary":
                    taus = summary_level(values, ratings[rating])
                    value = float(np.nanmean(taus))
                    again = np.nanmean(taus[drawn], axis=1)
                else:
                    value = system_level(values, ratings[rating])
                    again = np.array([system_level(values[rows], ratings[rating][rows]) for rows in drawn[:200]])
                low, high = np.nanpercentile(again, [2.5, 97.5])
                cells.append([100 * value, 100 * float(low), 100 * float(high)])
            results[level][name] = dict(zip(RATINGS, cells, strict=True))
            print(f"{name:<32}" + "".join(f"{v:>8.1f} [{lo:>5.1f},{hi:>5.1f}]" for v, lo, hi in cells), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
