"""What calibration gains from states of the frozen layers that are kept on disk.

    OMP_NUM_THREADS=1 python benchmarks/calibration_cache.py --target top-15

Made-up chats with a reference and candidates each go through one model, forward and backward, in turn whole, with
states that are computed and written, and with states that are read. CPU seconds of this process, because others may
use the machine too; the least of the rounds counts.
"""

import argparse
import tempfile
import time
from pathlib import Path

from tomtat.config import CalibrateSettings, LoraSettings, ModelSettings, PromptSettings, TrainSettings
from tomtat.models import SummarizerModel, load_base
from tomtat.models.adapters import prepare_training
from tomtat.models.attention import quick_attention
from tomtat.models.frozen import frozen_part
from tomtat.models.fused import fused_lora
from tomtat.models.loading import place
from tomtat.models.quick_layers import quick_layers
from tomtat.training.cache import FrozenStates, StateFiles
from tomtat.training.objectives import RankCandidates, TrainingData

CHAT = (
    "#Person1#: Hello, I am calling about the flat in {street}. Is it still free?\n"
    "#Person2#: It is. Two rooms, on floor {number}, and the rent is {rent} a month.\n"
    "#Person1#: Is heating included? My last flat was cold, and I paid as much again for it each winter.\n"
    "#Person2#: Water is, heating is not. The windows are new, so you would pay about a tenth of the rent.\n"
    "#Person1#: That sounds good. May I see it this week? I work until five, but on {day} I am off.\n"
    "#Person2#: Then come on {day} at {number}. Bring your papers, there are others who want it.\n"
)
SUMMARIES = (
    "#Person1# asks about the flat in {street}. It costs {rent} without heating, and they will look at it on {day}.",
    "#Person1# will see a flat with two rooms on floor {number} on {day}; #Person2# says that heating is not included.",
    "#Person2# has a flat in {street} and wants to see #Person1#'s papers. #Person1# works until five.",
    "#Person1# and #Person2# talk about windows, which are new, and about how cold the last flat was in winter.",
    "The rent is {rent}. The rent is {rent} a month. The flat is in {street}, in {street}, in {street}.",
)
DAYS = ("Monday", "Wednesday", "Friday")


def made_up(model: SummarizerModel, count: int) -> TrainingData:
    facts = [
        {"street": f"{3 + n} Mill Lane", "number": str(3 + n), "rent": str(500 + 70 * n), "day": DAYS[n % len(DAYS)]}
        for n in range(count)
    ]
    texts = [[summary.format(**row) for summary in SUMMARIES] for row in facts]
    rows = [model.encode(CHAT.format(**row), summaries[0], 1000) for row, summaries in zip(facts, texts, strict=True)]
    return TrainingData(rows, [], [], [[model.target(one) for one in summaries[1:]] for summaries in texts])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--target", default="top-15")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    settings = ModelSettings(name=options.model, precision=options.precision, device="cpu")
    model = load_base(settings, PromptSettings())
    prepare_training(model, LoraSettings(target=options.target), TrainSettings())
    place(model, settings)
    model.network.train()
    data, part = made_up(model, options.rows), frozen_part(model.network)
    if part is None:
        raise SystemExit(f"Nothing is frozen with lora.target={options.target}.")
    tokens = sum(len(one) for row in data.choices for one in model.frozen_rows(row))
    print(f"{model.dtype}, frozen: {part}; {options.rows} rows, {tokens} tokens through it")

    def seconds(frozen: FrozenStates | None) -> float:
        objective = RankCandidates(model, data, CalibrateSettings(), frozen)
        before = time.process_time()
        for row in range(options.rows):
            objective.loss_sum([row]).backward()
        return time.process_time() - before

    found: dict[str, list[float]] = {"whole": [], "computed and kept": [], "read": []}
    with quick_attention(), quick_layers(model.network), fused_lora(model.network):
        seconds(None)  # memory touched and kernels compiled
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:

                def states() -> FrozenStates:
                    files = StateFiles(Path(folder), part.width)
                    files.refresh()
                    return FrozenStates(model, part, files)

                found["whole"].append(seconds(None))
                found["computed and kept"].append(seconds(states()))
                found["read"].append(seconds(states()))
    whole = min(found["whole"])
    for name, each in found.items():
        times = whole / min(each)
        print(
            f"{name:20} {min(each):7.2f} s of CPU, {times:.2f} times as fast; all rounds {[round(s, 2) for s in each]}"
        )


if __name__ == "__main__":
    main()
