"""How fast adapters are trained: ours beside Seq2SeqTrainer and SFTTrainer with PEFT, on the same rows, taking turns.

    pip install trl                                               # or --target FOLDER, and --trl FOLDER below
    python benchmarks/training_speed.py --data FOLDER             # about two hours on two cores
    python benchmarks/training_speed.py --data FOLDER --quick     # within 9 minutes
    python benchmarks/training_speed.py --data FOLDER --only quality --rows 128   # time to quality, half an hour

FOLDER holds `dialogsum/train.jsonl` and `dialogsum/validation.jsonl`; without it the bundled chats stand in. Each
training has a process of its own, so that its peak memory is its own.

T5-small's shape has random weights and rows of CNN/DM's lengths at 512/128 tokens; LoRA of rank 16 on q and v, PEFT's
default for T5. SmolLM2-135M has rank 16 on all linear layers. Seconds are of the whole training: ours with looking at
the frozen part, computing and keeping its states (three epochs, a new cache each time) and saving; loading the model
is shown apart. Peers cost the same in each epoch, so that --quick gives them one. `--only quality` leaves out
SFTTrainer as it comes, which takes half of the time and says nothing of quality.

The last line is JSON; ratios are the peer's over ours (but `val_loss_ratio`), and null is what was not reached.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

LIMITS = [512, 128]
T5_SHAPE = {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "vocab_size": 32128, "d_kv": 64}
EVERYWHERE, DECODER = r".*\.(q|v)", r"decoder\..*\.(q|v)"
T5_LINEAR = ["q", "v"]
CAUSAL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class System:
    """One row of a table: a process that trains when told to."""

    name: str
    job: dict[str, Any]
    results: list[dict[str, Any]]
    process: Any = None
    start_seconds: float = 0.0

    def start(self, trl: Path | None) -> None:
        path = os.pathsep.join(filter(None, [str(trl) if trl else "", os.environ.get("PYTHONPATH", "")]))
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self._answer({"hello": True})
        self.start_seconds = time.perf_counter() - began

    def run(self) -> None:
        result = self._answer(self.job)
        self.results.append(result)
        print(f"  {self.name}: {result['seconds']:.1f} s, {self.rate:.2f} examples/s", file=sys.stderr, flush=True)

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended without an answer; its errors stand above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    @property
    def seconds(self) -> float:
        return median(result["seconds"] for result in self.results)

    @property
    def rate(self) -> float:
        """Training examples per second."""
        return float(self.job["count"] * self.job["epochs"] / self.seconds)

    @property
    def megabytes(self) -> float:
        return max(result["megabytes"] for result in self.results)


# In the worker's process


def work() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        job = json.loads(line)
        if "hello" in job:
            import peft  # noqa: F401
            import torch  # noqa: F401
            import transformers  # noqa: F401

            answer: dict[str, Any] = {}
        else:
            answer = train(job)
        print(json.dumps(answer), file=answers, flush=True)


def train(job: dict[str, Any]) -> dict[str, Any]:
    if job["system"] == "ours":
        answer = train_ours(job)
    else:
        import training_peers

        rows = [json.loads(line) for line in Path(job["ids"]).read_text().splitlines()]
        answer = training_peers.train(job, rows)
    return answer | {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def train_ours(job: dict[str, Any]) -> dict[str, Any]:
    """With `curve`: seconds of training, and the validation loss then."""
    import tomtat.training  # noqa: F401
    from tomtat.config import load_config

    module = sys.modules["tomtat.training.finetune"]
    seconds = 0.0
    usual = module._train

    def timed(*arguments: Any) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        folder = usual(*arguments)
        seconds = time.perf_counter() - started
        return folder

    with tempfile.TemporaryDirectory(dir=job["folder"]) as temporary:
        os.environ["TOMTAT_STATES"] = str(Path(temporary) / "states")
        settings = {
            "model.name": job["base"], "data.train": job["texts"], "data.max_source_tokens": job["source_tokens"],
            "lora.rank": 16, "lora.alpha": 32, "lora.target": job["target"], "train.epochs": job["epochs"],
            "train.batch_size": job["batch"], "train.learning_rate": job["rate"], "model.device": "cpu",
        }  # fmt: skip
        if job.get("validation"):
            settings["data.validation"] = job["validation"]
        module._train = timed
        try:
            out = Path(job["out"] or Path(temporary) / "run")
            run = module.finetune(load_config(None, settings), out=out)
        finally:
            module._train = usual
        epochs = [row for row in run.metrics() if row["kind"] == "epoch"]
        curve, trained = [], 0.0
        for row in epochs:
            trained += row["seconds"]
            curve.append([trained, row.get("validation_loss")])
    return {"seconds": seconds, "curve": curve, "precision": run.info()["precision"] if out.exists() else ""}


# Models, rows, figures


def make_t5(folder: Path, texts: list[str]) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"]))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **T5_SHAPE
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def news(count: int) -> list[dict[str, str]]:
    """Texts of CNN/DM's lengths, a token a word: most articles go beyond 512, highlights have about 70."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(6000)]
    return [
        {
            "article": " ".join(generator.choices(words, k=max(60, round(generator.gauss(800, 280))))),
            "highlights": " ".join(generator.choices(words, k=min(127, max(20, round(generator.gauss(66, 18)))))),
        }
        for _ in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def encode(base: Path, spec: str, source_tokens: int, path: Path) -> list[Any]:
    """Rows as token ids for the peers, exactly as ours reads them."""
    from tomtat.config import ModelSettings, PromptSettings
    from tomtat.data import load_examples
    from tomtat.models import load_base
    from tomtat.prompts import source_text

    model = load_base(ModelSettings(name=str(base)), PromptSettings())
    rows = [model.encode(source_text(row.source), row.references[0], source_tokens) for row in load_examples(spec)]
    write_rows(path, [{"prompt": row.prompt_ids, "target": row.target_ids} for row in rows])
    return rows


def validation_loss(base: Path, adapter: Path, spec: str, source_tokens: int) -> float:
    """Mean nats per target token in fp32, of whoever's adapter."""
    import torch
    from peft import PeftModel

    from tomtat.config import ModelSettings, PromptSettings
    from tomtat.data import load_examples
    from tomtat.models import load_base
    from tomtat.prompts import source_text

    model = load_base(ModelSettings(name=str(base)), PromptSettings())
    model.peft = PeftModel.from_pretrained(model.network, str(adapter))
    model.network.eval()
    rows = [model.encode(source_text(row.source), row.references[0], source_tokens) for row in load_examples(spec)]
    with torch.inference_mode():
        total = sum(model.loss_sum([row]).item() for row in rows)
    return total / sum(len(row.target_ids) for row in rows)


def needed_operations(base: Path, rows: list[Any]) -> float:
    """Of one epoch with LoRA on all linear layers: forward, gradients of activations and adapters, on real tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys = width * config.num_key_value_heads // config.num_attention_heads
    shapes = [
        (width, width),
        (width, keys),
        (width, keys),
        (width, width),
        (width, inner),
        (width, inner),
        (inner, width),
    ]
    frozen = sum(before * after for before, after in shapes)
    adapter = sum(16 * (before + after) for before, after in shapes)
    total = 0.0
    for row in rows:
        tokens, targets = len(row) - 1, len(row.target_ids)
        attention = 3 * 2 * 2 * width * tokens * tokens / 2  # causal; two products, each with two gradients
        total += layers * (tokens * (2 * 2 * frozen + 3 * 2 * adapter) + attention)
        total += targets * 2 * 2 * width * config.vocab_size
    return total


def matmul_rate() -> float:
    """Operations per second of the better of bf16 and fp32, by the best of 8 products of 2048-cubed matrices."""
    import torch

    best = 0.0
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.ones(2048, 2048, dtype=dtype)
        for _ in range(8):
            started = time.perf_counter()
            matrix @ matrix
            best = max(best, 2 * 2048**3 / (time.perf_counter() - started))
    return best


# The whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with dialogsum/train.jsonl and dialogsum/validation.jsonl")
    parser.add_argument("--trl", type=Path, help="folder that trl was installed into, if not here")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, help="training rows of each task (default 428; with --quick 32)")
    parser.add_argument("--rounds", type=int, help="turns of each system (default 1; with --quick 1)", default=1)
    parser.add_argument("--only", choices=["t5", "causal", "quality"], help="one of the tasks")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the tuned peers")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sys.path.insert(0, str(Path(__file__).parent))
        work()
        return
    with tempfile.TemporaryDirectory(prefix="training-speed-") as temporary:
        figures: dict[str, Any] = {}
        if options.only in (None, "t5"):
            figures |= t5_figures(Path(temporary), options)
        if options.only != "t5":
            figures |= causal_figures(Path(temporary), options)
    print(json.dumps(figures))


def t5_figures(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    count = options.rows or (32 if options.quick else 428)
    rows = news(count)
    base = make_t5(folder / "t5", [f"{row['article']} {row['highlights']}" for row in rows])
    texts = write_rows(folder / "news.jsonl", rows)
    source_tokens = LIMITS[0] - 8
    ids = folder / "news.ids"
    encoded = encode(base, str(texts), source_tokens, ids)
    longest = [max(len(row.prompt_ids) for row in encoded), max(len(row.target_ids) for row in encoded)]
    assert longest[0] <= LIMITS[0], longest
    assert longest[1] <= LIMITS[1], longest
    common = {"base": str(base), "ids": str(ids), "texts": str(texts), "count": count, "batch": 8, "rate": 1e-3,
              "limits": LIMITS, "source_tokens": source_tokens, "folder": str(folder), "out": None}  # fmt: skip
    peer_epochs = 1 if options.quick else 3

    def peer(name: str, target: str, tuned: bool) -> System:
        own = {"system": "transformers", "peft_target": target, "tuned": tuned, "epochs": peer_epochs}
        return System(name, common | own | {"compile": options.compile}, [])

    ours = System("ours, decoder", common | {"system": "ours", "target": "decoder q + decoder v", "epochs": 3}, [])
    default = peer("Seq2SeqTrainer, decoder", DECODER, tuned=False)
    tuned = peer("Seq2SeqTrainer tuned, decoder", DECODER, tuned=True)
    everywhere = peer("Seq2SeqTrainer, everywhere", EVERYWHERE, tuned=False)
    compare("T5-small's shape, CNN/DM lengths", [ours, tuned, default, everywhere], options)
    return {
        "t5_over_default": ours.rate / default.rate,
        "t5_over_tuned": ours.rate / tuned.rate,
        "t5_decoder_over_everywhere": ours.rate / everywhere.rate,
    }


def causal_figures(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from tomtat.models.embedded import embedded_model

    base = embedded_model()
    count = options.rows or (32 if options.quick else 428)
    source = [str(options.data / "dialogsum" / f"{part}.jsonl") if options.data else f"chats@{part}"
              for part in ("train", "validation")]  # fmt: skip
    texts, validation = f"{source[0]}[:{count}]", f"{source[1]}[:{12 if options.quick else 58}]"
    source_tokens = 400
    ids = folder / "chats.ids"
    rows = encode(base, texts, source_tokens, ids)
    common = {"base": str(base), "ids": str(ids), "texts": texts, "count": len(rows), "batch": 8, "rate": 1e-3,
              "source_tokens": source_tokens, "folder": str(folder)}  # fmt: skip
    epochs = 1 if options.quick else 3

    def trl(name: str, tuned: bool) -> System:
        own = {"system": "trl", "peft_target": CAUSAL_LINEAR, "tuned": tuned, "epochs": epochs}
        return System(
            name, common | own | {"compile": options.compile, "out": str(folder / name) if tuned else None}, []
        )

    def our(name: str, target: str, out: bool = False) -> System:
        own = {"system": "ours", "target": target, "epochs": epochs, "out": str(folder / "run") if out else None}
        return System(name, common | own | ({} if out else {"validation": validation}), [])

    # The first is timed as the peers are, without validation; the others show when they were as good.
    ours, tuned, default = our("ours", "all-linear", out=True), trl("SFTTrainer tuned", True), trl("SFTTrainer", False)
    defaults = [] if options.only == "quality" else [default]
    placements = [our(f"ours, {target}", target) for target in ("all-linear", "top-15", "top-10")]
    compare(
        f"SmolLM2-135M, {'DialogSum' if options.data else 'bundled chats'}, all linear layers",
        [ours, tuned, *defaults, *placements],
        options,
    )
    adapters = folder / "run" / "adapter", folder / tuned.name
    loss, peers_loss = (validation_loss(base, adapter, validation, source_tokens) for adapter in adapters)
    print(f"validation loss: ours {loss:.4f}, SFTTrainer tuned {peers_loss:.4f}")
    reached = [point[0] + result["seconds"] - result["curve"][-1][0] for system in placements
               for result in system.results for point in result["curve"] if point[1] <= peers_loss]  # fmt: skip
    for system in placements:
        points = ", ".join(f"{loss:.4f} after {seconds:.0f} s" for seconds, loss in system.results[0]["curve"])
        print(f"{system.name}: {points}")
    return {
        "causal_over_default": ours.rate / default.rate if defaults else None,
        "causal_over_tuned": ours.rate / tuned.rate,
        "matmul_share": epochs * needed_operations(base, rows) / ours.seconds / matmul_rate(),
        "val_loss_ratio": loss / peers_loss,
        "time_to_quality_ratio": tuned.seconds / min(reached) if reached else None,
        "peak_memory_ratio": tuned.megabytes / ours.megabytes,
    }


def compare(title: str, systems: list[System], options: argparse.Namespace) -> None:
    print(f"\n{title}", file=sys.stderr)
    for _ in range(options.rounds):
        for system in systems:
            if system.job["system"] == "ours" and system.job["out"]:
                subprocess.run(["rm", "-rf", system.job["out"]], check=True)
            system.start(options.trl)
            system.run()
            system.stop()
    print(f"\n{title}\n{'':34}{'examples/s':>12}{'seconds':>10}{'start':>8}{'peak MB':>10}")
    for system in systems:
        print(
            f"{system.name:34}{system.rate:12.2f}{system.seconds:10.1f}{system.start_seconds:8.1f}{system.megabytes:10.0f}"
        )


if __name__ == "__main__":
    main()
