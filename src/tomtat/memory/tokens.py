"""What messages cost in the tokens of the model that will read them.

A budget is only kept if it is counted as the target counts. In order of trust: a Hugging Face tokenizer with its chat
template, tiktoken's encodings where their files can be reached, and else an estimate by scripts that says it is one
and learns from the usage that answers report.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import regex

from tomtat.errors import ModelError
from tomtat.quiet import quiet_transformers

AnyMessage = Mapping[str, Any]

PART_TOKENS = 1100
"""For a content part that is no text, such as an image, whose cost only the provider knows: one at high detail."""
REMEMBERED = 32768
"""Texts whose counts are kept: a chat's turns are counted once, not at every request."""
PIECES = 16384
"""Words whose estimated prices are kept: nearly all that is said is said with these."""
LONGEST_PIECE = 24
"""Characters; longer ones come but once."""

_ROLES = ("user", "assistant", "system", "developer", "tool")


class TokenCounter(Protocol):
    """How many tokens messages cost."""

    name: str
    """As it is told to people: `cl100k_base`, a model's name, `estimate`."""
    is_estimate: bool

    def text(self, text: str) -> int: ...

    def message(self, message: AnyMessage) -> int:
        """What one more message adds to a request."""

    @property
    def base(self) -> int:
        """What a request costs besides its messages."""

    def total(self, messages: Sequence[AnyMessage]) -> int:
        """Of a whole request."""
        return self.base + sum(map(self.message, messages))


class _Known:
    """Counts by a hash of their texts: what was erased must not live on here, and a long text takes no more room than a
    short one. Safe to use from several threads.

    A context asks some hundred times, so it is Python's own hash, of 64 bits with a secret of the process, and no lock:
    counts are kept in two halves, and when the newer one is full the older one goes, but for what was asked for.
    """

    def __init__(self) -> None:
        self._newer: dict[int, float] = {}
        self._older: dict[int, float] = {}

    def count(self, text: str, count: Callable[[str], float]) -> float:
        key = hash(text)
        found = self._newer.get(key)
        if found is None:
            found = self._older.get(key)
            self._keep(key, found := count(text) if found is None else found)
        return found

    def _keep(self, key: int, found: float) -> None:
        if len(self._newer) >= REMEMBERED // 2:
            self._newer, self._older = {}, self._newer
        self._newer[key] = found


class _Counter(TokenCounter):
    is_estimate = False

    def __init__(self) -> None:
        self._known = _Known()

    def text(self, text: str) -> int:
        return math.ceil(self._known.count(text, self._text))

    def _text(self, text: str) -> float:
        raise NotImplementedError

    def _name(self, name: str) -> int:
        return 1 + self.text(name)

    def _around(self, role: str) -> int:
        """What a message of a role costs besides its words."""
        raise NotImplementedError

    def message(self, message: AnyMessage) -> int:
        content = message.get("content")
        tokens = self._around(message["role"])
        if isinstance(content, str):
            tokens += self.text(content)
        for part in content if isinstance(content, Sequence) and not isinstance(content, str) else ():
            words = part.get("text")
            tokens += self.text(words) if isinstance(words, str) else PART_TOKENS
        if message.get("name"):
            tokens += self._name(str(message["name"]))
        for name in ("tool_calls", "function_call", "refusal", "tool_call_id"):
            if message.get(name):
                # As JSON, with its ids, quotes and braces: no template writes more.
                tokens += self.text(json.dumps(message[name], ensure_ascii=False))
        return tokens


class HuggingFaceTokens(_Counter):
    """Counts of a Hugging Face tokenizer. Of a request never less than its chat template makes, and a few more: where
    a message's end meets the next one's beginning, templates save a token now and then."""

    def __init__(self, tokenizer: Any, name: str | None = None) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self.name = name or str(getattr(tokenizer, "name_or_path", "") or "tokenizer")
        template = _Template(tokenizer, self._text)
        self._base, self._roles = template.costs()
        self._names, self._around_name = template.name_costs()

    @classmethod
    def load(cls, name: str) -> "HuggingFaceTokens":
        """From a folder, or by a hub id: from the hub's cache on this machine, else from the hub.

        Raises: ModelError where there is none, or the hub can't be reached.
        """
        from transformers import AutoTokenizer

        is_here = _is_here(name)
        if not is_here:
            _ask_hub_for(name)
        try:
            with quiet_transformers():
                return cls(AutoTokenizer.from_pretrained(name, local_files_only=is_here), name)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"The tokenizer of {name} can't be loaded: {reason}") from None

    def _text(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else 0

    def _around(self, role: str) -> int:
        return self._roles.get(role, max(self._roles.values()))

    def _name(self, name: str) -> int:
        return self._around_name + self._names * self.text(name) if self._names else 0

    @property
    def base(self) -> int:
        return self._base


_OPENAI_AROUND, _OPENAI_BASE = 3, 3
"""By OpenAI's cookbook, "How to count tokens with tiktoken"."""


def _is_here(name: str) -> bool:
    """Whether a name is a folder, or in the hub's cache on this machine.

    Raises: ModelError where it can be neither.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if name and Path(name).is_dir():
        return True
    if name.startswith(("/", ".", "~")):
        raise ModelError(f"There is no folder {name} with a tokenizer.")
    try:
        return isinstance(try_to_load_from_cache(name, "tokenizer_config.json"), str)
    except HFValidationError:
        raise ModelError(f"{name!r} is neither a folder with a tokenizer nor a model's name on the hub.") from None


def _ask_hub_for(name: str) -> None:
    """Once: the hub's client asks for each file five times, a minute in all, before it says that there is no network.

    Raises: ModelError where the hub has no such model or can't be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
    except GatedRepoError:
        gated = f"{name} is gated: accept its terms on its hub page and log in with `hf auth login`."
        raise ModelError(gated) from None
    except RepositoryNotFoundError:
        raise ModelError(f"There is no folder {name!r}, and the hub has no model of that name to read.") from None
    except Exception:  # offline, by whichever HTTP library the client is built on
        raise ModelError(
            f"There is no folder {name!r}, and the model hub can't be reached for a tokenizer of that name. "
            "Name a folder with a tokenizer.json, or none: tokens are estimated then."
        ) from None


class _Template:
    """What a chat template adds to words, found out by rendering some."""

    def __init__(self, tokenizer: Any, count: Callable[[str], int]) -> None:
        self._tokenizer, self._count = tokenizer, count

    def costs(self) -> tuple[int, dict[str, int]]:
        """Tokens before and after all messages, and around each role's."""
        asked = self._rendered("user")
        if asked is None:
            return _OPENAI_BASE, {"user": _OPENAI_AROUND + 1}
        word = self._count("word")
        answered, again = self._rendered("user", "assistant"), self._rendered("user", "assistant", "user")
        user = (again - answered if again and answered else asked) - word + 1
        roles = {"user": user, "assistant": (answered - asked if answered else user) - word + 1}
        for role in _ROLES[2:]:
            after = self._rendered("user", "assistant", role)
            before = self._rendered(role, "user")
            found = [n - m for n, m in ((after, answered), (before, asked)) if n and m]
            roles[role] = max([user, *(cost - word + 1 for cost in found)])
        prompted = self._rendered("user", prompt=True) or asked
        return max(prompted - word - user + 1, 0) + 1, roles

    def name_costs(self) -> tuple[int, int]:
        """How often a message's name is written, and tokens around it: of the dearest role, for most write none."""
        if self._rendered("user") is None:
            return 1, 1  # as OpenAI counts
        short, long = "nina", "nina and omar of room four"
        written, around = 0, 0
        for role in _ROLES:
            before = () if role == "user" else ("user", "assistant")
            plain, named, longer = (self._rendered(*before, role, name=name) for name in (None, short, long))
            if plain is None or named is None or longer is None or longer == named:
                continue
            times = math.ceil((longer - named) / (self._count(long) - self._count(short)))
            written = max(written, times)
            # One more for each, where it joins what stands beside it.
            around = max(around, longer - plain - times * self._count(long) + times, times)
        return written, around

    def _rendered(self, *roles: str, name: str | None = None, prompt: bool = False) -> int | None:
        """Tokens of messages of one word each, the last by somebody with a name; None where the template refuses."""
        if not getattr(self._tokenizer, "chat_template", None):
            return None
        messages = [{"role": role, "content": "word"} for role in roles]
        if name:
            messages[-1]["name"] = name
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except Exception:  # a template raises whatever its author wrote: for a role it doesn't know, for example
            return None
        return self._count(text)


class TiktokenTokens(_Counter):
    """Counts of an OpenAI encoding."""

    def __init__(self, encoding: Any) -> None:
        super().__init__()
        self._encoding = encoding
        self.name = encoding.name

    def _text(self, text: str) -> int:
        return len(self._encoding.encode(text, disallowed_special=()))

    def _around(self, role: str) -> int:
        return _OPENAI_AROUND

    @property
    def base(self) -> int:
        return _OPENAI_BASE


class _Kind(NamedTuple):
    """Characters that tokenizers treat alike, and the tokens of a run of them."""

    pattern: str
    each: float
    """For each character."""
    first: float = 0.0
    """For the run, whatever its length."""
    free: int = 0
    """Characters that `first` pays for."""


_NO_MARK_FOLLOWS = r"(?![\xC0-\u036F\u1E00-\u1EFF])"

# Fitted to the dearest of o200k, DeepSeek's, Qwen's and Tekken, on texts in some 110 languages, on rules, tables and
# signs: `python benchmarks/token_estimate.py`. Four characters a token would be off by 2.8 in Chinese and 4 in Telugu.
# The first kind that matches counts; what none of them knows is nearly a token a byte, for nobody has learned it.
_KINDS = {
    "word": _Kind(rf"(?:[A-Z]?[a-z]++|[A-Z](?![A-Z])){_NO_MARK_FOLLOWS}", 0.56, first=0.9, free=5),
    "newline": _Kind(r"\r?\n\s*", 0.25, first=1.5, free=4),
    "blanks": _Kind(r"[ \t]{2,}", 0.07, first=1.0),
    "other_blank": _Kind(r"[^\S ]", 1.0),
    "digits": _Kind(r"[0-9]+", 1.0),
    "capitals": _Kind(rf"[A-Z]{{2,}}+{_NO_MARK_FOLLOWS}", 0.35, first=1.0, free=2),
    "marked_word": _Kind(r"[A-Za-z\xC0-\u024F\u1E00-\u1EFF]+", 0.35, first=1.4),
    "rule": _Kind(r"-{4,}|={4,}|\*{4,}|#{4,}|\.{4,}|/{4,}", 0.04, first=2.0),
    "dear_rule": _Kind(r"_{4,}|\u2014{4,}|\u2026{4,}|\u2500{3,}", 0.15, first=1.4),
    "sign": _Kind(r"[!-~]", 0.65),
    "cyrillic": _Kind(r"[\u0410-\u044F]+", 0.5),
    "cyrillic_beyond": _Kind(r"[\p{Cyrillic}--[\u0410-\u044F]]+", 1.7),
    "han": _Kind(r"[\u3005\u4E00-\u9FFF]+", 1.1),
    "hiragana": _Kind(r"[\u3041-\u309F]+", 0.55),
    "katakana": _Kind(r"[\u30A0-\u30FF]+", 0.9),
    "hangul": _Kind(r"[\uAC00-\uD7A3]+", 1.0),
    "arabic": _Kind(r"[\u060C-\u064A]+", 0.6),
    "hebrew": _Kind(r"[\u05D0-\u05EA]+", 0.6),
    "greek": _Kind(r"[\u0370-\u03FF]+", 1.05),
    "thai": _Kind(r"[\p{Thai}--\p{N}]\p{M}?", 0.0, first=0.75),
    "devanagari": _Kind(r"[\p{Devanagari}\p{Bengali}--\p{N}]+", 1.15),
    "indic": _Kind(r"[\p{Gurmukhi}\p{Gujarati}\p{Tamil}\p{Telugu}\p{Kannada}\p{Malayalam}\p{Myanmar}--\p{N}]+", 1.5),
    "caucasian": _Kind(r"[\u10D0-\u10FF\p{Armenian}]+", 1.25),
    "known_sign": _Kind(
        r"[\xA1-\xBF\u2010-\u2027\u20AC\u2122\u2190-\u2193\u2502\u251C\u2588\u25A0\u25CF\u2605\u3001-\u3011]"
        r"|[\uFF01-\uFF1F\uFFFD]",
        1.0,
    ),
    "box": _Kind(r"[\u2500-\u259F]", 1.7),
    "joiner": _Kind(r"[\u200B-\u200F\uFE0F]", 1.3),
    "pictograph": _Kind(r"[\p{Extended_Pictographic}\p{Regional_Indicator}\p{Emoji_Modifier}]", 3.5),
    "two_byte_sign": _Kind(r"[[\0-\x1F\x7F-\u07FF]--[\p{L}\p{N}]]", 1.7),
    "three_byte_sign": _Kind(r"[[\u0800-\uFFFF]&&[\p{P}\p{S}]]", 2.6),
    "two_bytes": _Kind(r"[\x80-\u07FF]", 2.1),
    "three_bytes": _Kind(r"[\u0800-\uFFFF]", 2.95),
    "four_bytes": _Kind(r"[\U00010000-\U0010FFFF]", 3.9),
}
# A blank belongs to what follows it, and costs nothing.
_RUN = regex.compile("(?V1) ?(?:" + "|".join(f"({kind.pattern})" for kind in _KINDS.values()) + ")")
_LINES = regex.compile(r"[^\n]*+\n\s*+|[^\n]++\Z")
_HUNDREDTHS = [(round(100 * kind.first), round(100 * kind.each), kind.free) for kind in _KINDS.values()]
"""Prices as integers: sums are the same in whichever order."""
_PRICES: dict[int, int] = {}
"""Of the pieces between blanks, by their hashes; begun anew when it is full."""


def _price(text: str) -> int:
    """Hundredths of a token, run by run."""
    price = 0
    for match in _RUN.finditer(text):
        kind = match.lastindex or 0
        first, each, free = _HUNDREDTHS[kind - 1]
        start, end = match.span(kind)
        price += first + each * max(0, end - start - free)
    return price


def _price_of_line(line: str) -> int:
    """The same for a line with the line ends and blanks after it. No run has a single blank inside, so what stands
    between blanks is priced piece by piece, and most pieces are words that have been priced before."""
    said, end, indent = line.partition("\n")
    if "  " in said or "\t" in said:
        return _price(line)
    if end and said.endswith("\r"):
        said, end = said[:-1], "\r\n"
    pieces = said.split(" ")
    try:
        price = sum(map(_PRICES.__getitem__, map(hash, pieces)))
    except KeyError:
        price = sum(map(_price_of, pieces))
    return price + (_price(end + indent) if end else 0)


def _price_of(piece: str) -> int:
    known = _PRICES.get(hash(piece))
    if known is not None:
        return known
    price = _price(piece)
    if len(piece) <= LONGEST_PIECE:
        if len(_PRICES) >= PIECES:
            _PRICES.clear()
        _PRICES[hash(piece)] = price
    return price


class EstimatedTokens(_Counter):
    """A count by scripts, for models whose tokenizer isn't at hand, that answers' reported usage makes better.

    It starts on the dear side: a budget is rather left unused than broken.
    """

    is_estimate = True

    def __init__(self, factor: float = 1.0) -> None:
        """factor: what `factor` was when it was last learned."""
        super().__init__()
        self.factor = factor
        """Reported over estimated tokens, as far as answers have told."""
        self._estimated = self._reported = 0.0

    @property
    def name(self) -> str:  # type: ignore[override]
        return "estimate" if self.factor == 1.0 else f"estimate x {self.factor:.2f}"

    def learn(self, messages: Sequence[AnyMessage], prompt_tokens: int) -> None:
        """Take in what an answer's `usage.prompt_tokens` said about the messages that were sent."""
        if prompt_tokens <= 0:
            return
        # Old requests fade, so that a change of model is learned within some thirty requests.
        self._estimated = 0.9 * self._estimated + self.total(messages) / self.factor
        self._reported = 0.9 * self._reported + prompt_tokens
        self.factor = min(max(self._reported / self._estimated, 0.2), 5.0)

    def text(self, text: str) -> int:
        return round(self._known.count(text, self._text) * self.factor / 100 + 0.5) if text else 0

    def _text(self, text: str) -> float:
        # No run goes on over a line's end, and most lines of a block of quotes are known from other blocks.
        lines = _LINES.findall(text)
        if len(lines) == 1:
            return _price_of_line(text)
        return sum([self._known.count(line, _price_of_line) for line in lines])

    def _around(self, role: str) -> int:
        return _OPENAI_AROUND + 1

    @property
    def base(self) -> int:
        return _OPENAI_BASE


def counter_for(model: str | None) -> TokenCounter:
    """The best count there is for a model's name: a folder with a tokenizer, an OpenAI model or encoding that tiktoken
    knows and has the file of, else an estimate.

    A hub id is not fetched unasked: `HuggingFaceTokens.load` does that.
    """
    if not model:
        return EstimatedTokens()
    if model.startswith(("/", ".", "~")) or (Path(model) / "tokenizer_config.json").is_file():
        # Path's own fails for users that there aren't.
        return HuggingFaceTokens.load(os.path.expanduser(model))  # noqa: PTH111
    if not is_tiktokens(model):
        return EstimatedTokens()
    import tiktoken

    try:
        return TiktokenTokens(
            tiktoken.get_encoding(model) if model in encodings() else tiktoken.encoding_for_model(model)
        )
    except Exception:  # a file that can't be fetched, told by any error of requests'
        return EstimatedTokens()


def encodings() -> list[str]:
    """Names of the encodings that tiktoken knows; none where it is not installed."""
    try:
        import tiktoken
    except ImportError:
        return []
    return list(tiktoken.list_encoding_names())


def is_tiktokens(name: str) -> bool:
    """Whether tiktoken is installed and knows the name, of an encoding or of a model."""
    try:
        import tiktoken

        return name in encodings() or bool(tiktoken.encoding_name_for_model(name))
    except (ImportError, KeyError):
        return False
