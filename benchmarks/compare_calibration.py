"""Does `tomtat compare` raise false alarms, and does it find what it says it can see?

    python benchmarks/compare_calibration.py RUN --data 'data/dialogsum/test.jsonl' --samples samples.jsonl

Two samplings of one model on the same rows (made once, kept in --samples) have no true difference. Each repeat draws
rows anew and swaps the two labels in each row at random: a difference found at the 5 % level is a false alarm. Then a
constant of the size that `compare` claims to see in four of five tries is added to one side: how often is it found,
Holm's correction over all metrics included?
"""

import argparse
import json
from pathlib import Path

import numpy as np

from tomtat.config import EvaluateSettings
from tomtat.data import load_examples
from tomtat.metrics import Rows, Scorer
from tomtat.metrics.significance import LEVEL, differences, holm
from tomtat.metrics.values import RowValues
from tomtat.prompts import source_text

METRICS = ("rouge1", "rouge2", "rougeLsum", "bleu")


def sample_twice(run: str, data: str, path: Path) -> None:
    """Nucleus sampling (top_p 0.95, temperature 1) with two seeds; a line per row: id and both texts."""
    import torch

    from tomtat.batching import micro_batches
    from tomtat.summarizer import Summarizer

    summarizer = Summarizer.load(run)
    model, examples = summarizer.model, load_examples(data)
    rows = summarizer.encode(example.source for example in examples)
    config = model._generation_config(summarizer.decoding)
    config.update(do_sample=True, temperature=1.0, top_p=0.95, top_k=0)
    texts: list[list[str]] = [[], []]
    for seed in (1, 2):
        torch.manual_seed(seed)
        found: dict[int, str] = {}
        for batch in micro_batches(range(len(rows)), [len(row.prompt_ids) + 100 for row in rows], 8192):
            inputs, skip = model._generation_inputs([rows[number] for number in batch])
            with torch.inference_mode():
                output = model.network.generate(**inputs, generation_config=config)
            for number, sequence in zip(batch, output, strict=True):
                found[number] = model._generation(rows[number], sequence[skip:].tolist()).text
            print(f"seed {seed}: {len(found)}/{len(rows)}", flush=True)
        texts[seed - 1] = [found[number] for number in range(len(rows))]
    lines = [
        json.dumps({"id": example.id, "a": a, "b": b}, ensure_ascii=False)
        for example, a, b in zip(examples, *texts, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def swapped(a: RowValues, b: RowValues, rows: np.ndarray, swap: np.ndarray) -> tuple[RowValues, RowValues]:
    """The drawn rows, the two systems' places changed where `swap` says so."""
    ours, theirs = a.columns[rows], b.columns[rows]
    first = np.where(swap[:, None], theirs, ours)
    second = np.where(swap[:, None], ours, theirs)
    return RowValues(a.name, a.recipe, first, a.kind), RowValues(b.name, b.recipe, second, b.kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder or model that is sampled")
    parser.add_argument("--data", required=True)
    parser.add_argument("--samples", type=Path, required=True, help="where the two samplings are kept")
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alarms-only", action="store_true", help="leave the planted differences out")
    options = parser.parse_args()
    if not options.samples.exists():
        sample_twice(options.run, options.data, options.samples)
    samples = [json.loads(line) for line in options.samples.read_text(encoding="utf-8").splitlines()]
    examples = load_examples(options.data)
    rows = Rows([example.references for example in examples], [source_text(example.source) for example in examples])
    scorer = Scorer(rows, EvaluateSettings(metrics=["rouge", "bleu"]))
    a, b = (scorer.score([sample[side] for sample in samples]) for side in "ab")
    pairs = {name: (a.row_values(name), b.row_values(name)) for name in METRICS}
    generator = np.random.default_rng(options.seed)
    alarms = dict.fromkeys(METRICS, 0)
    family = 0
    found = {name: 0 for name in METRICS if name != "bleu" and not options.alarms_only}
    sizes: dict[str, list[float]] = {name: [] for name in found}
    for repeat in range(options.repeats):
        drawn = generator.integers(0, len(examples), len(examples))
        swap = generator.integers(0, 2, len(examples)).astype(bool)
        mixed = [swapped(*pairs[name], drawn, swap) for name in METRICS]
        if repeat % 200 == 0:
            print(f"{repeat}/{options.repeats}", flush=True)
        null = holm(
            differences(
                [first for first, _ in mixed], [second for _, second in mixed], options.permutations, seed=repeat
            )
        )
        family += any(difference.is_significant for difference in null)
        for difference in null:
            alarms[difference.metric] += difference.p <= LEVEL
        if options.alarms_only:
            continue
        planted = []
        for difference, (_, second) in zip(null, mixed, strict=True):
            if difference.metric in found:
                shift = np.array([difference.detectable, 0.0])
                sizes[difference.metric].append(difference.detectable)
                planted.append(RowValues(second.name, second.recipe, second.columns + shift, second.kind))
        untouched = [second for _, second in mixed if second.name not in found]
        seen = differences([first for first, _ in mixed], [*planted, *untouched], options.permutations, seed=repeat)
        for difference in holm(seen):
            if difference.metric in found:
                found[difference.metric] += difference.is_significant and difference.value > 0
    print(f"\n{'metric':<10} {'false alarms':>12} {'planted':>8} {'found':>7}")
    for name in METRICS:
        rate = 100 * alarms[name] / options.repeats
        if name in found:
            print(
                f"{name:<10} {rate:>10.1f} % {np.mean(sizes[name]):>8.2f} {100 * found[name] / options.repeats:>5.1f} %"
            )
        else:
            print(f"{name:<10} {rate:>10.1f} % {'-':>8} {'-':>7}")
    print(f"any of the four, after Holm's correction: {100 * family / options.repeats:.1f} %")
    result = {
        "rows": len(examples),
        "repeats": options.repeats,
        "permutations": options.permutations,
        "false_alarms": {name: alarms[name] / options.repeats for name in METRICS},
        "any_false_alarm_after_holm": family / options.repeats,
        "planted": {name: float(np.mean(sizes[name])) for name in found},
        "found": {name: found[name] / options.repeats for name in found},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
