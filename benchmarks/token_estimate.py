"""How far is the estimate of `tomtat.memory.EstimatedTokens` from what tokenizers count, language by language?

    python benchmarks/token_estimate.py --tokenizer o200k=o200k_base.tiktoken deepseek=deepseek/tokenizer.json \\
        --text vi=news-vi.txt en=news-en.txt --po locale/*/LC_MESSAGES/django.po --cldr chr si nqo --signs

Estimated over real tokens of the first 40,000 characters of each text: 1 is exact, 0.5 lets a budget be broken twofold,
2 leaves half of it unused. The estimate is meant to stay near the dearest count, which the last columns are about: the
ratio of the whole text, and that of its worst and best passage of 400 characters, about as long as a turn; then what
four characters a token would say. A tokenizer is a `tokenizer.json`, a tekken.json of Mistral's, or the ranks of a
`.tiktoken`, which are cut into words as o200k_base is (Qwen's, say, by single digits: `--digits NAME`). Where to get
them: the wheels of litellm (tiktoken's own files, named by a hash, and DeepSeek's), dashscope and mistral_common.

With --po, texts are the translations in files of gettext, such as Django's, named by the folder above LC_MESSAGES,
several of one language together. With --cldr, they are the names of languages and countries in those locales, from
Babel: for scripts that no program is translated to. With --signs, what is no sentence: rules, tables, digits, code,
icons. JSON last.

The constants were fitted to the dearest of o200k, DeepSeek's V3, Qwen's and Tekken, on Django's translations, Babel's
names and these signs: on those the table says how well they are fitted, not how well other texts will be estimated.
"""

import argparse
import base64
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from tomtat.memory import EstimatedTokens

LONGEST, PASSAGE = 40_000, 400
"""Characters."""
SHORTEST = 1_000
"""Of a text: less says little about a language."""

SIGNS = {
    "rules": "\n".join([sign * length for sign in "-=_*#./~" for length in (10, 40, 60, 80)]),
    "boxes": "┌──────┬───────┐\n│ room │ hour  │\n├──────┼───────┤\n│ four │ 14:30 │\n└──────┴───────┘\n" * 8,
    "tree": "├── src\n│   ├── a.py\n│   └── b.py\n└── tests\n" * 10,
    "markdown table": "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n" * 10,
    "private use": "\ue0a0 main \ue0b0 \uf418 3 \uf00c \uf00d \ue725 \ue0b2 \uf489 \uf113\n" * 10,
    "Arabic digits": "٠١٢٣ ٤٥٦٧٨٩ ١٤٤٧ ٢٠٢٦ ٠٩١٢٣٤٥٦٧\n" * 10,
    "Persian digits": "۰۱۲۳ ۴۵۶۷۸۹ ۱۴۰۵ ۰۹۱۲۳۴۵۶۷\n" * 10,
    "Hindi digits": "०१२३ ४५६७८९ २०२६ ९८७६५४३२१०\n" * 10,
    "mathematics": "∀x∈ℝ ∃y: x≤y ∧ ¬(y≠x) ⇒ ∑∫∂√∞ ∇⊕⊗ x² 10⁻⁹ ½ ①②③\n" * 10,
    "emoji": "🙂🎉🚲🔑😂❤️😭🙏🔥👍 👨‍👩‍👧👩🏽‍💻🏳️‍🌈 🇻🇳🇩🇪 1️⃣2️⃣\n" * 10,
    "identifiers": "getUserNameFromConversationStoreById max_new_tokens HTTPServer.serve_forever\n" * 10,
    "capitals": "THE MEETING MOVES FROM MONDAY TO FRIDAY BECAUSE NINA IS ILL\n" * 10,
    "ids": "3f2b8c1e-9d4a-4b7f-8e21-0c5d6a7b8f90 2026-11-28T18:40:35Z +84 912 345 678\n" * 10,
    "JSON": '{"id":12,"name":"nina","tags":["a","b"],"ok":true,"nested":{"x":[1,2,3]}}\n' * 10,
}
Count = Callable[[str], int]
Row = dict[str, float]

_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How OpenAI's o200k_base cuts a text, with so many digits together."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tokenizer", nargs="+", metavar="NAME=FILE", required=True)
    arguments.add_argument(
        "--text", nargs="+", metavar="NAME=FILE", default=[], help="plain text; a .po is read as one"
    )
    arguments.add_argument("--po", nargs="+", metavar="FILE", type=Path, default=[], help="named by their language")
    arguments.add_argument("--digits", nargs="+", metavar="NAME", default=[], help="tokenizers that take one at a time")
    arguments.add_argument("--cldr", nargs="+", metavar="LOCALE", default=[], help="wants Babel: pip install babel")
    arguments.add_argument("--signs", action="store_true")
    options = arguments.parse_args()

    counts = {name: counter(name, path, options.digits) for name, path in map(named, options.tokenizer)}
    texts = read(options.text, options.po) | {f"cldr {code}": names_in(code) for code in options.cldr}
    if options.signs:
        texts |= SIGNS
    if not texts:
        arguments.error(f"no text of {SHORTEST:,} characters or more")
    table = {language: measure(text, counts) for language, text in texts.items()}
    columns = list(next(iter(table.values())))
    for column, summary in (("all", geometric_mean), ("median", median), ("lowest", min), ("highest", max)):
        table[column] = {name: summary([table[language][name] for language in texts]) for name in columns}
    print(f"{'estimated / real tokens':24}" + "".join(f"{column:>12}" for column in columns))
    for language, row in table.items():
        print(f"{language:24}" + "".join(f"{row[column]:12.2f}" for column in columns))
    rounded = {language: {name: round(value, 3) for name, value in row.items()} for language, row in table.items()}
    print(json.dumps({"texts": len(texts), **rounded}, ensure_ascii=False))


def named(argument: str) -> tuple[str, Path]:
    name, is_named, path = argument.partition("=")
    if not is_named or not Path(path).is_file():
        raise SystemExit(f"NAME=FILE is wanted, and a file that is there: {argument}")
    return name, Path(path)


def counter(name: str, path: Path, digits: Sequence[str]) -> Count:
    if path.suffix == ".json" and "tekken" not in path.name:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    import tiktoken

    ranks = tekken_ranks(path) if path.suffix == ".json" else tiktoken_ranks(path)
    pattern = _WORDS % (1 if name in digits else 3)
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(encoding.encode(text))


def tiktoken_ranks(path: Path) -> dict[bytes, int]:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def tekken_ranks(path: Path) -> dict[bytes, int]:
    """Only so many of its vocabulary as the model has, less the special tokens."""
    file = json.loads(path.read_bytes())
    count = file["config"]["default_vocab_size"] - file["config"]["default_num_special_tokens"]
    return {base64.b64decode(token["token_bytes"]): token["rank"] for token in file["vocab"][:count]}


def names_in(locale: str) -> str:
    """Names of languages and countries as a locale writes them; those in plain Latin letters are left out."""
    from babel import Locale

    found = Locale.parse(locale)
    names = [*found.languages.values(), *found.territories.values()]
    return ", ".join(name for name in names if not name.isascii())[:LONGEST]


def read(plain: Sequence[str], translated: Sequence[Path]) -> dict[str, str]:
    """Texts by name, each long enough."""
    texts: dict[str, str] = {}
    for name, path in map(named, plain):
        texts[name] = translations(path) if path.suffix == ".po" else path.read_text(encoding="utf-8")
    for path in sorted(translated):
        language = path.resolve().parent.parent.name
        texts[language] = f"{texts[language]}\n{translations(path)}" if language in texts else translations(path)
    return {name: text[:LONGEST] for name, text in texts.items() if len(text) >= SHORTEST}


_TRANSLATION = re.compile(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\n?)+)', re.MULTILINE)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}")


def translations(path: Path) -> str:
    """Sentences of a file of gettext: without its header, what is shorter, and the places of values."""
    found = []
    for block in _TRANSLATION.finditer(path.read_text(encoding="utf-8")):
        text = "".join(_STRING.findall(block[1])).replace("\\n", "\n").replace('\\"', '"')
        text = _PLACEHOLDER.sub("", text)
        if len(text) > 25 and "@" not in text and ":" not in text[:30]:
            found.append(text)
    return "\n".join(found)


def measure(text: str, counts: dict[str, Count]) -> Row:
    estimate = EstimatedTokens().text
    passages = [text[place : place + PASSAGE] for place in range(0, max(len(text) - PASSAGE // 2, 1), PASSAGE)]
    ratios = [estimate(passage) / max(count(passage) for count in counts.values()) for passage in passages]
    dearest = max(count(text) for count in counts.values())
    row: dict[str, Any] = {name: estimate(text) / count(text) for name, count in counts.items()}
    return {
        **row,
        "dearest": estimate(text) / dearest,
        "worst": min(ratios),
        "best": max(ratios),
        "chars/4": len(text) / 4 / dearest,
    }


if __name__ == "__main__":
    main()
