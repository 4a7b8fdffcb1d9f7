"""Tokenizers of the families' own classes, with vocabularies trained on the spot."""

import json
from typing import Any

from conftest import WORDS, byte_tokenizer

ENGLISH = (
    "They meet on Friday, in room four. Nina is ill; the meeting moves from Monday to Friday: (4) -- summarize: "
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z a b c d e f g h i j k l m n o p q r s t u v w x y z"
)


def unigram_pieces(texts: list[str], size: int = 200) -> list[tuple[str, float]]:
    """Pieces with scores, as SentencePiece's Unigram makes them; what the texts lack has none.

    The trainer's order and last digits differ from process to process; here they are the same in each, so that a model
    of random weights says the same everywhere.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts * 3, trainer)
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = [(piece, round(score, 2)) for piece, score in vocab if piece != "<unk>"]
    return sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def t5_tokenizer(texts: list[str] | None = None, extra_ids: int = 4) -> Any:
    """A T5's: English only, line breaks read as spaces."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(extra_ids))]
    pieces = unigram_pieces(texts or [ENGLISH, WORDS.replace("{", "").replace("}", "")])
    return T5Tokenizer(vocab=[*special, *pieces, *sentinels], extra_ids=extra_ids)


def pegasus_tokenizer() -> Any:
    """Unigram with `<n>` for line breaks, which the class itself never writes for them."""
    from transformers import PegasusTokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<mask_1>", 0.0), ("<mask_2>", 0.0)]
    unknown = [(f"<unk_{number}>", 0.0) for number in range(2, 6)]
    vocab = [*special, *unknown, ("<unk>", 0.0), ("<n>", 0.0), *unigram_pieces([ENGLISH, WORDS])]
    return PegasusTokenizer(vocab=vocab, offset=6)


def mbart_tokenizer() -> Any:
    """`text </s> en_XX`, as mBART-25 reads and writes."""
    from transformers import MBartTokenizer
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

    codes = [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return MBartTokenizer(vocab=[*special, *unigram_pieces([ENGLISH, WORDS]), *codes, ("<mask>", 0.0)])


def mbart50_tokenizer() -> Any:
    """`en_XX text </s>`, as mBART-50 reads and writes."""
    from transformers import MBart50Tokenizer

    start = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    return MBart50Tokenizer(vocab=[*start, *unigram_pieces([ENGLISH, WORDS])])


def byte_pieces(special: list[str], size: int = 400) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE, special tokens first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([WORDS, ENGLISH] * 3, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]


def bart_tokenizer() -> Any:
    from transformers import BartTokenizer

    vocab, merges = byte_pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return BartTokenizer(vocab=vocab, merges=merges)


def qwen_tokenizer(template: str) -> Any:
    """End token `<|im_end|>`, padding `<|endoftext|>`, thoughts in tokens of their own that are no special ones."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    vocab, merges = byte_pieces(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.chat_template = template
    return tokenizer


def gemma_tokenizer(template: str) -> Any:
    """Pieces with ▁ for spaces and bytes for what has none; turns end with a token that is not the end token."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, trainers
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    as_bytes = [f"<0x{number:02X}>" for number in range(256)]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator([WORDS, ENGLISH] * 3, trainers.BpeTrainer(vocab_size=100 + len(special)))
    state = json.loads(trained.to_str())["model"]
    names = dict.fromkeys([*special, *as_bytes, "\n", *state["vocab"]])
    tokenizer = GemmaTokenizer(
        vocab={name: number for number, name in enumerate(names)}, merges=[tuple(merge) for merge in state["merges"]]
    )
    tokenizer.add_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.chat_template = template
    return tokenizer


def phi_tokenizer(template: str) -> Any:
    """End token `<|endoftext|>`, while turns end with `<|end|>`, which is in none of the tokenizer's named places."""
    from tokenizers import AddedToken

    tokenizer = byte_tokenizer({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, template, None)
    turns = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in turns])
    return tokenizer
