"""Kill a training at random moments, go on each time, and compare with one that nobody killed, byte for byte.

    python benchmarks/kill_and_resume.py                     # 20 kills of a tiny model with random weights: 2 minutes
    python benchmarks/kill_and_resume.py --real              # the embedded model on bundled chats: 5 minutes with bf16

SIGKILL falls at a random moment of the training, or of what comes before it; of every two kills one waits until a
checkpoint is being written. Dropout is on, and checkpoints are written every few steps. Adapter and metrics rows (but
for times) must be equal; the last line says so, with exit code 0, or 1 where they differ. Each training is a process of
its own, forked from this one, so that libraries are imported once.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TIMES = ("seconds", "examples_per_second")

TINY = {
    "data.train": "chats@train[:12]",
    "data.validation": "chats@validation[:4]",
    "data.max_source_tokens": 48,
    "train.epochs": 40,
    "train.batch_size": 2,
    "train.checkpoint_minutes": 0.003,
    "model.device": "cpu",
    "lora.dropout": 0.2,
    "lora.rank": 4,
}
REAL = TINY | {
    "data.train": "chats@train[:16]",
    "data.max_source_tokens": 192,
    "train.epochs": 3,
    "train.checkpoint_minutes": 0.1,
    "lora.rank": 16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--real", action="store_true", help="the embedded model instead of a tiny one")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, help="of the training")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings: dict[str, Any] = dict(REAL) if arguments.real else TINY | {"model.name": str(tiny_llama(folder))}
        if arguments.epochs:
            settings["train.epochs"] = arguments.epochs
        started = time.monotonic()
        if wait(train(settings, folder / "unbroken")):
            sys.exit("The training that nobody killed failed.")
        seconds = time.monotonic() - started
        rows = len((folder / "unbroken" / "metrics.jsonl").read_text().splitlines())
        print(f"unbroken: {seconds:.1f} s, {rows} metrics rows", flush=True)
        hits = kill_again_and_again(settings, folder / "killed", arguments.kills, moments, seconds)
        if wait(train(settings, folder / "killed")):
            sys.exit("The training could not go on.")
        if differences := compare(folder / "unbroken", folder / "killed"):
            print(*differences, sep="\n")
            sys.exit(1)
        print(f"equal after {arguments.kills} kills, {hits} of them while a checkpoint was written")


def kill_again_and_again(
    settings: dict[str, Any], path: Path, kills: int, moments: random.Random, seconds: float
) -> int:
    """How many kills left a checkpoint half written."""
    hits = 0
    for number in range(1, kills + 1):
        before = count_rows(path)
        process = train(settings, path)
        if number % 2:
            time.sleep(moments.uniform(0, min(2 * seconds / kills, 0.8 * seconds)))
        else:
            wait_for_a_checkpoint(process, path)
            time.sleep(moments.uniform(0, 0.002))
        os.kill(process, signal.SIGKILL)
        if os.WIFEXITED(os.waitpid(process, 0)[1]):
            sys.exit(f"kill {number}: the training had ended before. More --epochs, or fewer --kills.")
        halves = list(path.glob("checkpoints/*.new")) + list(path.glob("checkpoints/*.old"))
        hits += bool(halves)
        where = f"in {halves[0].name}" if halves else "between checkpoints"
        print(f"kill {number}: metrics rows {before} -> {count_rows(path)}, {where}", flush=True)
    return hits


def train(settings: dict[str, Any], path: Path) -> int:
    """Begin, or go on, in a process of its own; its id."""
    # Imported before the fork, and nothing is computed before it: it would lose the threads of a pool.
    from tomtat.training import finetune, resume

    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if (path / "config.toml").exists():
            resume(path)
        else:
            shutil.rmtree(path, ignore_errors=True)  # killed before it was a run
            finetune(settings=settings, out=path)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def wait_for_a_checkpoint(process: int, path: Path) -> None:
    """Until one is begun, or the training ends."""
    old = set(path.glob("checkpoints/*.new"))  # left by the last kill
    while set(path.glob("checkpoints/*.new")) <= old:
        if (path / "adapter").exists() and not is_alive(process):
            return
        time.sleep(0.0002)


def is_alive(process: int) -> bool:
    with Path(f"/proc/{process}/stat").open() as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def count_rows(path: Path) -> int:
    metrics = path / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def compare(one: Path, other: Path) -> list[str]:
    from tomtat import RunFolder

    differences = []
    for name in sorted({path.name for folder in (one, other) for path in (folder / "adapter").iterdir()}):
        contents = [(folder / "adapter" / name).read_bytes() for folder in (one, other)]
        if contents[0] != contents[1]:
            lines = [content.splitlines() for content in contents] if name.endswith(".json") else [[], []]
            differing = [f"  {a!r} and {b!r}" for a, b in zip(*lines, strict=False) if a != b]
            differences += [f"adapter/{name} differs", *differing]
    first, second = ([without_times(row) for row in RunFolder.open(path).metrics()] for path in (one, other))
    if first != second:
        number = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        told = f"row {number}: {first[number]} and {second[number]}" if number is not None else "their number"
        differences.append(f"metrics.jsonl differs: {told}")
    return differences


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def tiny_llama(folder: Path) -> Path:
    """Random weights and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(["<end>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    wrapped.chat_template = "{% for message in messages %}{{ message['content'] }}<end>{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "tiny")
    wrapped.save_pretrained(folder / "tiny")
    return folder / "tiny"


if __name__ == "__main__":
    main()
