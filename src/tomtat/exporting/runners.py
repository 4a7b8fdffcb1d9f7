"""Greedy token ids of an exported model, by the engine it was exported for.

Greedy, because a beam's choice can't be explained token by token.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tomtat.errors import ModelError
from tomtat.models import Decoding, Encoded, SummarizerModel
from tomtat.quiet import quiet_gguf_reader, quiet_transformers

Runner = Callable[[Sequence[Encoded], int], list[list[int]]]
"""Prompts and the most new tokens, to the new token ids of each."""


def torch_runner(model: SummarizerModel) -> Runner:
    return lambda rows, new_tokens: model.generate_ids(rows, Decoding(new_tokens))


def ctranslate2_runner(folder: Path, model: SummarizerModel) -> Runner:
    import ctranslate2

    names, ends = model.tokenizer.convert_ids_to_tokens, model.end_token_ids()
    if not model.is_encoder_decoder:
        generator = ctranslate2.Generator(str(folder), device="cpu")

        def continue_texts(rows: Sequence[Encoded], new_tokens: int) -> list[list[int]]:
            results = generator.generate_batch(
                [names(row.prompt_ids) for row in rows],
                max_length=new_tokens,
                end_token=ends,
                return_end_token=True,
                include_prompt_in_result=False,
            )
            return [list(result.sequences_ids[0]) for result in results]

        return continue_texts

    translator = ctranslate2.Translator(str(folder), device="cpu")
    prefix = names(model.target_prefix)

    def translate(rows: Sequence[Encoded], new_tokens: int) -> list[list[int]]:
        results = translator.translate_batch(
            [names(row.prompt_ids) for row in rows],
            target_prefix=[prefix] * len(rows) if prefix else None,
            beam_size=1,
            max_input_length=0,  # by default it cuts sources at 1,024 tokens
            min_decoding_length=0,
            max_decoding_length=new_tokens,
            end_token=ends,
            return_end_token=True,
        )
        return [list(model.tokenizer.convert_tokens_to_ids(result.hypotheses[0])) for result in results]

    return translate


def onnx_runner(folder: Path, model: SummarizerModel) -> Runner:
    import onnxruntime_genai

    network = onnxruntime_genai.Model(str(folder))
    ends = set(model.end_token_ids())

    def continue_text(row: Encoded, new_tokens: int) -> list[int]:
        options = onnxruntime_genai.GeneratorParams(network)
        options.set_search_options(max_length=len(row.prompt_ids) + new_tokens, do_sample=False)
        generator = onnxruntime_genai.Generator(network, options)
        generator.append_tokens(row.prompt_ids)
        new_ids: list[int] = []
        while len(new_ids) < new_tokens and not ends.intersection(new_ids[-1:]):
            generator.generate_next_token()
            new_ids.append(int(generator.get_next_tokens()[0]))
        return new_ids

    def continue_texts(rows: Sequence[Encoded], new_tokens: int) -> list[list[int]]:
        try:
            return [continue_text(row, new_tokens) for row in rows]
        except RuntimeError as error:
            # Some shapes can be written and not run: its attention wants heads of a multiple of 16.
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"ONNX Runtime can't run this model: {reason} Export it --to merged instead.") from None

    return continue_texts


def gguf_runner(file: Path, model: SummarizerModel) -> Runner:
    """By Transformers' own reader of GGUF, which knows nothing of our writer."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), quiet_gguf_reader():
        network: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    read = type(model)(network, model.tokenizer, model.prompt, model.source)
    return torch_runner(read)


def until_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Up to the end token, which counts."""
    length = next((number + 1 for number, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:length])
