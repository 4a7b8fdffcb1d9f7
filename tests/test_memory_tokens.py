"""What messages cost: never less than a chat template makes, and an estimate that says it is one and learns."""

import random
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import byte_tokenizer
from memory_fakes import assistant, calls, random_chat, result, user
from tomtat.errors import ModelError
from tomtat.memory import EstimatedTokens, HuggingFaceTokens, counter_for, tokens
from tomtat.memory.tokens import PART_TOKENS, TiktokenTokens

Message = dict[str, Any]
SPECIAL = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "start": "<|im_start|>"}


def as_sent(chat: list[Message]) -> list[Message]:
    """Without the fields that are ours."""
    return [{name: value for name, value in message.items() if name not in ("id", "pinned")} for message in chat]


def in_words(chat: list[Message]) -> list[Message]:
    """What every template takes: roles and texts."""
    return [{"role": one["role"], "content": one["content"]} for one in chat if isinstance(one["content"], str)]


def by_turns(chat: list[Message]) -> list[Message]:
    """The same, user and assistant in turn."""
    texts = [message["content"] for message in in_words(chat)]
    return [(user, assistant)[place % 2](text) for place, text in enumerate(texts)]


def made_by_template(tokenizer: Any, chat: list[Message]) -> int:
    return len(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])


# -- Hugging Face

TOOLS = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- else %}{{ '<|im_start|>' + message.role + (' ' + message.name if message.name else '') + '\n' }}
        {%- if message.content is string %}{{ message.content }}
        {%- elif message.content %}{% for part in message.content %}
            {%- if part.type == 'text' %}{{ part.text }}{% else %}{{ '<|vision|>' }}{% endif %}
        {%- endfor %}{% endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
        {%- endfor %}{{ '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
"""Names, parts, calls of tools and their results, as Qwen and its kin write them."""

STRICT = """{{ '<s>' }}{% for message in messages %}
{%- if message.role == 'user' %}{{ '[INST] ' + message.content | trim + ' [/INST]' }}
{%- elif message.role == 'assistant' %}{{ message.content + '</s>' }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate!') }}{% endif %}
{%- endfor %}"""
"""Raises for roles it doesn't know and for any order but user and assistant in turn, as Mistral's and Gemma's do."""

DEFAULT_SYSTEM = """{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""
"""Says something before anybody has, and opens the answer."""


def tiny(template: str | None) -> Any:
    return byte_tokenizer(SPECIAL, template, None)


@pytest.mark.parametrize("seed", range(20))
def test_a_request_never_costs_less_than_its_template_makes(seed: int, tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    counter = HuggingFaceTokens(tokenizer)
    chat = as_sent(random_chat(random.Random(seed), 30))
    for many in (1, 2, 7, 30):
        assert made_by_template(tokenizer, chat[:many]) <= counter.total(chat[:many])


@pytest.mark.parametrize(
    ("template", "shape"),
    [(TOOLS, as_sent), (STRICT, by_turns), (DEFAULT_SYSTEM, in_words)],
    ids=["tools, names and parts", "two roles in turn", "a system message of its own"],
)
def test_neither_do_other_templates(template: str, shape: Callable[[list[Message]], list[Message]]) -> None:
    tokenizer = tiny(template)
    counter = HuggingFaceTokens(tokenizer, "tiny")
    for seed in range(25):
        chat = shape(random_chat(random.Random(seed), 20))
        for many in (1, 2, 20):
            assert made_by_template(tokenizer, chat[:many]) <= counter.total(chat[:many])


def test_the_count_is_not_far_above_either(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    chat = in_words(random_chat(random.Random(3), 40))
    real = made_by_template(tokenizer, chat)

    # A token or two for each message, and one more for a role that the tokenizer writes in pieces.
    assert HuggingFaceTokens(tokenizer).total(chat) - real <= 8 * len(chat)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("template", [STRICT, "{% for message in messages %}<s>{{ message.content }}{% endfor %}"])
def test_neither_do_tokenizers_that_put_a_blank_before_a_text(kind: str, template: str) -> None:
    """As SentencePiece does: a text alone is not what it is in the middle of another."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer: Any
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        trainer: Any = trainers.BpeTrainer(vocab_size=600, special_tokens=special + fallback)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token="<unk>")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if kind == "bpe" else "always")
    tokenizer.train_from_iterator([str(random_chat(random.Random(seed), 20)) for seed in range(3)], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    wrapped.chat_template = template
    counter = HuggingFaceTokens(wrapped, kind)
    for seed in range(25):
        chat = by_turns(random_chat(random.Random(seed), 20))
        for many in (1, len(chat)):
            assert made_by_template(wrapped, chat[:many]) <= counter.total(chat[:many])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_neither_does_the_embedded_models(seed: int) -> None:
    from transformers import AutoTokenizer

    from tomtat.models import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct").path)
    counter = HuggingFaceTokens(tokenizer)
    for shape in (in_words, by_turns):  # its template takes neither parts nor calls
        chat = shape(random_chat(random.Random(seed), 30))
        for many in (1, 2, 30):
            real = made_by_template(tokenizer, chat[:many])
            assert real <= counter.total(chat[:many]) <= real + 2 * many + 40


def test_a_tokenizer_without_a_chat_template_counts_as_openai_does() -> None:
    tokenizer = tiny(None)
    counter = HuggingFaceTokens(tokenizer, "plain")
    words = len(tokenizer("the meeting moves")["input_ids"])

    assert counter.text("the meeting moves") == words
    assert counter.message(user("the meeting moves")) == counter.message(assistant("the meeting moves")) == words + 4
    assert counter.total([user("the meeting moves")]) == words + 4 + 3
    assert not counter.is_estimate
    assert counter.name == "plain"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('never') }}",
        "{% for message in messages %}{{ message.nothing.at_all }}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% for",
    ],
)
def test_a_template_that_always_raises_is_as_good_as_none(template: str) -> None:
    assert HuggingFaceTokens(tiny(template)).total([user("nina")]) == HuggingFaceTokens(tiny(None)).total(
        [user("nina")]
    )


def test_roles_that_a_template_raises_for_cost_as_much_as_the_dearest() -> None:
    counter = HuggingFaceTokens(tiny(STRICT))
    dearest = max(counter.message(user("nina")), counter.message(assistant("nina")))

    for role in ("system", "developer", "tool", "function", "nobody"):
        assert counter.message({"role": role, "content": "nina"}) == dearest


def test_names_calls_and_parts_add_to_a_message() -> None:
    counter = HuggingFaceTokens(tiny(TOOLS))
    plain = counter.message(user("room four"))

    assert counter.message(user("room four", name="nina")) > plain
    assert counter.message(calls("a")) > counter.message(assistant(""))
    assert counter.message(result("call-1", "room four")) > plain
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    parts: Any = [{"type": "text", "text": "room four"}, image, image]
    assert counter.message(user(parts)) == plain + 2 * PART_TOKENS


NAMED = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.name %}{{ '[said in this room by ' + message.name + ', who is called ' + message.name + ']: ' }}{% endif %}
{{- message.content + '<|im_end|>\n' }}{% endfor %}"""


@pytest.mark.parametrize("name", ["n", "nina", "Dr. Nina Omarova of the third floor", "\u4f1a\u8bae"])
def test_names_cost_what_a_template_writes_around_them_as_often_as_it_does(name: str) -> None:
    tokenizer = tiny(NAMED)
    chat = [user("the meeting moves", name=name), assistant("noted"), user("well?", name=name)]
    real, counted = made_by_template(tokenizer, chat), HuggingFaceTokens(tokenizer).total(chat)

    assert real <= counted <= real + 20


def test_names_that_a_template_leaves_out_cost_nothing() -> None:
    counter = HuggingFaceTokens(tiny(STRICT))
    assert counter.message(user("room four", name="nina")) == counter.message(user("room four"))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that can't be reached, and what it was asked for."""
    from huggingface_hub import HfApi

    asked: list[str] = []

    def model_info(_: HfApi, name: str, **more: Any) -> None:
        asked.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return asked


def test_without_the_hub_one_line_says_so_at_once(no_hub: list[str]) -> None:
    with pytest.raises(ModelError, match="no folder 'some/model', and the model hub can't be reached") as caught:
        HuggingFaceTokens.load("some/model")
    assert "\n" not in str(caught.value)
    assert no_hub == ["some/model"], "asked once"


@pytest.mark.parametrize("name", ["/no/folder", "./none", "~/none", "a b", "x/y/z", ""])
def test_what_can_be_no_hub_id_is_not_asked_for(name: str, no_hub: list[str]) -> None:
    with pytest.raises(ModelError, match="folder"):
        HuggingFaceTokens.load(name)
    assert no_hub == []


def test_counters_keep_no_text() -> None:
    counter = HuggingFaceTokens(tiny(None))
    text = "the meeting moves " * 1000
    before = sys.getrefcount(text)
    counts = counter.text(text), counter.text("".join(text))

    assert counts[0] == counts[1]
    assert sys.getrefcount(text) == before


def test_a_text_is_counted_once_and_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(tokens, "REMEMBERED", 2)
    monkeypatch.setattr(TiktokenTokens, "_text", lambda _, text: counted.append(text) or len(text))
    counter = TiktokenTokens(SimpleNamespace(name="fake"))

    assert [counter.text(text) for text in ("a", "bb", "a", "ccc", "a", "bb", "\ud800")] == [1, 2, 1, 3, 1, 2, 1]
    assert counted == ["a", "bb", "ccc", "bb", "\ud800"]


def test_a_tokenizer_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="can't be loaded") as caught:
        HuggingFaceTokens.load(str(tmp_path))
    assert "\n" not in str(caught.value)


# -- tiktoken


@pytest.fixture
def encoding() -> Any:
    """A token a byte, but for one pair."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    return tiktoken.Encoding(
        "tiny", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 257}
    )  # fmt: skip


def test_an_encoding_counts_as_openais_cookbook_does(encoding: Any) -> None:
    counter = TiktokenTokens(encoding)

    assert counter.name == "tiny"
    assert not counter.is_estimate
    assert counter.text("") == 0
    assert counter.text("cab é") == 5
    assert counter.message(user("cab é")) == 3 + 5
    assert counter.message(user("cab é", name="ab")) == 3 + 5 + 1 + 1
    assert counter.total([user("cab é"), assistant("x")]) == 3 + (3 + 5) + (3 + 1)


def test_a_special_tokens_text_is_counted_as_text(encoding: Any) -> None:
    assert TiktokenTokens(encoding).text("<|endoftext|>") == len("<|endoftext|>")


# -- which one


def test_a_folder_is_counted_by_its_tokenizer(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = counter_for(str(tiny_llama))
    assert isinstance(counter, HuggingFaceTokens)
    assert counter.name == str(tiny_llama)

    monkeypatch.setenv("HOME", str(tiny_llama.parent))
    assert isinstance(counter_for(f"~/{tiny_llama.name}"), HuggingFaceTokens)


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tokenizer of"):
        counter_for(str(tmp_path))


@pytest.mark.parametrize("name", [None, "qwen3", "no/such-model", "a b\0c"])
def test_a_name_that_nobody_knows_is_an_estimate(name: str | None) -> None:
    counter = counter_for(name)
    assert counter.is_estimate
    assert counter.name == "estimate"


def test_names_that_tiktoken_knows_are_its_own(encoding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    asked: list[str] = []
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: asked.append(name) or encoding)
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: asked.append(f"of {name}") or encoding)

    assert counter_for("o200k_base").name == counter_for("gpt-4o").name == "tiny"
    assert asked == ["o200k_base", "of gpt-4o"]


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("proxy"), ValueError("hash of the file")])
@pytest.mark.parametrize("name", ["o200k_base", "gpt-4o"])
def test_an_encoding_whose_file_cant_be_fetched_is_an_estimate(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiktoken = pytest.importorskip("tiktoken")

    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    monkeypatch.setattr(tiktoken, "encoding_for_model", fail)
    assert counter_for(name).is_estimate


def test_without_tiktoken_there_is_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert counter_for("gpt-4o").is_estimate


# -- the estimate

REAL = {
    "English": ("The meeting moves from Monday to Friday at 14:30, because Nina is ill and room four is being painted.", 24, 26),
    "Vietnamese": ("Cuộc họp được dời từ thứ Hai sang thứ Sáu lúc 14 giờ 30, vì chị Nga bị ốm và phòng số bốn đang sơn lại.", 38, 50),
    "Chinese": ("会议从星期一改到星期五下午两点半，因为李娜生病了，而且四号房间正在粉刷。", 24, 33),
    "Japanese": ("ニナさんが病気で、四号室は塗装中なので、会議は月曜日から金曜日の午後二時半に変わります。", 35, 36),
    "Korean": ("니나 씨가 아프고 4호실은 페인트칠 중이라서 회의가 월요일에서 금요일 오후 두 시 반으로 바뀌었습니다.", 32, 45),
    "Russian": ("Встреча переносится с понедельника на пятницу, на 14:30, потому что Нина болеет, а четвёртую комнату красят.", 38, 44),
    "Arabic": ("تم نقل الاجتماع من يوم الاثنين إلى يوم الجمعة في الثانية والنصف لأن نينا مريضة والغرفة الرابعة قيد الطلاء.", 26, 34),
    "Hindi": ("बैठक सोमवार से शुक्रवार दोपहर ढाई बजे कर दी गई है, क्योंकि नीना बीमार है और कमरा नंबर चार में पुताई चल रही है।", 36, 103),
    "Thai": ("การประชุมเลื่อนจากวันจันทร์ไปเป็นวันศุกร์ตอนบ่ายสองโมงครึ่ง เพราะนีน่าป่วยและห้องหมายเลขสี่กำลังทาสีใหม่", 41, 54),
    "code": ("def total(prices: list[float]) -> float:\n    found = 0.0\n    for price in prices:\n        if price > 0:\n            found += price * 1.21\n    return round(found, 2)\n", 51, 54),
    "digits": ("4821390157 20250417 1830 3.14159265 +84 912 345 678", 25, 50),
    "emoji": ("🙂🎉👨‍👩‍👧 🚲🔑 👍🏽 ❤️ 🇻🇳", 22, 49),
    "Cherokee": ("ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ ᎤᎾᏕᎿ ᏚᏳᎧᏛ ᎨᏒᎢ.", 60, 98),
    "Sinhala": ("රැස්වීම සඳුදා සිට සිකුරාදා දක්වා කල් දමා ඇත.", 23, 116),
    "Arabic digits": ("٠١٢٣ ٤٥٦٧٨٩ ١٤٤٧ ٢٠٢٦ ٠٩١٢٣٤٥٦٧", 30, 58),
    "private use": ("\ue0a0 main \ue0b0 \uf418 3 \uf00c \uf00d \ue725 \ue0b2 \uf489 \uf113", 30, 38),
    "box": ("┌──────┬───────┐\n│ room │ hour  │\n╞══════╪═══════╡\n│ four │ 14:30 │\n└──────┴───────┘", 46, 72),
    "symbols": ("∀x∈ℝ ∃y: x≤y ⇒ ∑√∞ ∇⊕⊗ ▁▂▃▄▅▆▇ ⌘⌥⇧⏎ ♔♕♖ ½ ① Ⅳ", 48, 70),
    "accents apart": (unicodedata.normalize("NFD", "Cuộc họp được dời từ thứ Hai sang thứ Sáu."), 40, 47),
    "rules": ("\n".join(["-" * 60, "=" * 60, "_" * 40, "*" * 50, f"Methods {'.' * 40} 17", "#" * 30]), 18, 29),
    "names in code": ("getUserNameFromConversationStoreById HTTPServer maxNewTokens parseJSONIntoRows", 16, 17),
    "capitals": ("THE MEETING MOVES FROM MONDAY TO FRIDAY BECAUSE NINA IS ILL AND ROOM FOUR IS BEING PAINTED.", 28, 35),
}  # fmt: skip
"""Texts with the fewest and the most tokens that four tokenizers make of them: OpenAI's o200k_base, DeepSeek's (V3),
Qwen's (qwen.tiktoken) and Mistral's Tekken (240911), without special tokens. Between them lie factors of up to 5."""


@pytest.mark.parametrize("script", REAL)
def test_an_estimate_is_between_half_and_twice_the_dearest_count(script: str) -> None:
    text, _, dearest = REAL[script]
    assert dearest / 2 <= EstimatedTokens().text(text) <= 2 * dearest


@pytest.mark.parametrize("script", REAL)
def test_an_estimate_is_never_below_half_of_any_count_nor_far_below_the_cheapest(script: str) -> None:
    text, cheapest, _ = REAL[script]
    assert EstimatedTokens().text(text) >= 0.8 * cheapest


@pytest.mark.parametrize(
    "script", ["Cherokee", "Arabic digits", "private use", "box", "symbols", "accents apart", "rules", "capitals"]
)
def test_what_no_sentence_is_made_of_is_near_the_dearest_count_too(script: str) -> None:
    text, _, dearest = REAL[script]
    assert 0.75 * dearest <= EstimatedTokens().text(text) <= 1.5 * dearest


@pytest.mark.parametrize("script", ["Chinese", "Hindi"])
def test_four_characters_a_token_would_be_far_off(script: str) -> None:
    text, _, dearest = REAL[script]
    naive, estimate = len(text) / 4, EstimatedTokens().text(text)

    assert dearest > 2.5 * naive
    assert estimate > 2.5 * naive
    assert abs(estimate - dearest) < abs(naive - dearest) / 3


def test_an_estimate_grows_with_the_text_and_is_nothing_for_nothing() -> None:
    counter = EstimatedTokens()
    assert counter.text("") == 0
    for text, _, _ in REAL.values():
        costs = [counter.text(text[:end]) for end in range(0, len(text) + 1, 10)]
        assert costs == sorted(costs)


@pytest.mark.parametrize(
    "text",
    [" " * 100_000, "a" * 100_000, "é" * 100_000, "a" * 100_000 + "é", "\n" * 100_000, "会" * 100_000,
     "a\u0301" * 50_000, "aé" * 50_000, "-" * 100_000, "\u200d" * 100_000, "ก็" * 50_000],
    ids=["blanks", "letters", "marked letters", "letters and a mark", "lines", "characters", "accents", "changing",
         "signs", "joiners", "Thai"],
)  # fmt: skip
def test_an_estimate_takes_linear_time(text: str) -> None:
    def seconds(part: str) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            EstimatedTokens().text(part)
            times.append(time.perf_counter() - started)
        return min(times)

    # Quadratic work would take a hundred times as long, and minutes.
    assert seconds(text) < 40 * seconds(text[: len(text) // 10]) + 0.05
    assert seconds(text) < 2


# -- learning


def requests(count: int, seed: int = 0) -> list[list[Message]]:
    return [in_words(random_chat(random.Random(seed + n), 12)) for n in range(count)]


def real(costs: float, request: list[Message]) -> int:
    """Of a model whose words cost so many times the estimate. What stands around a message costs every model alike."""
    return EstimatedTokens(costs).total(request)


def off(counter: EstimatedTokens, costs: float) -> float:
    """How far from a model's own count, at worst, as a share of it."""
    return max(abs(counter.total(one) / real(costs, one) - 1) for one in requests(10, seed=100))


@pytest.mark.parametrize("costs", [0.6, 1.7])
def test_an_estimate_learns_what_a_model_costs_within_ten_requests(costs: float) -> None:
    counter = EstimatedTokens()
    for one in requests(10):
        counter.learn(one, real(costs, one))

    assert counter.factor == pytest.approx(costs, rel=0.05)
    assert off(counter, costs) < 0.05
    assert counter.name == f"estimate x {counter.factor:.2f}"
    assert counter.is_estimate


@pytest.mark.parametrize(("old", "new"), [(1.7, 0.6), (0.6, 1.7)])
def test_an_estimate_forgets_an_old_model(old: float, new: float) -> None:
    counter = EstimatedTokens()
    for one in requests(50):
        counter.learn(one, real(old, one))
    assert off(counter, old) < 0.05
    for one in requests(10, seed=200):
        counter.learn(one, real(new, one))
    assert abs(counter.factor - new) < abs(counter.factor - old), "more than half of the way"
    for one in requests(30, seed=300):
        counter.learn(one, real(new, one))
    assert off(counter, new) < 0.1


@pytest.mark.parametrize("nonsense", [0, -1, -(10**9)])
def test_nonsense_teaches_nothing(nonsense: int) -> None:
    counter = EstimatedTokens(1.3)
    counter.learn(requests(1)[0], nonsense)

    assert counter.factor == 1.3
    counter.learn(requests(1)[0], real(0.6, requests(1)[0]))
    assert counter.factor == pytest.approx(0.6, rel=0.1)


def test_what_no_tokenizer_does_is_learned_up_to_a_bound() -> None:
    counter = EstimatedTokens()
    counter.learn(requests(1)[0], 10**9)
    assert counter.factor == 5.0
    for _ in range(300):
        counter.learn(requests(1)[0], 1)
    assert counter.factor == 0.2


def test_what_was_counted_before_is_counted_anew_once_something_was_learned() -> None:
    counter = EstimatedTokens()
    text = "Please note that the ladder number 1078 is in the cellar now. " * 20
    before = counter.text(text)
    counter.learn([user(text)], 2 * counter.total([user(text)]))

    assert counter.text(text) == pytest.approx(2 * before, rel=0.02)


def test_an_estimate_goes_on_with_what_it_had_learned() -> None:
    counter = EstimatedTokens()
    for one in requests(10):
        counter.learn(one, real(1.7, one))
    again = EstimatedTokens(counter.factor)

    assert again.total(requests(1)[0]) == counter.total(requests(1)[0])


def test_an_estimate_by_pieces_is_that_of_the_whole_text() -> None:
    draw = random.Random(0)
    parts = ["word", "Ann's", "3,5", "ẩn", "é", "\u0301", "会议", "🫖", "\u00a0", "...", "-----", "x_1"]
    ends = ["", " ", " ", "  ", "\t", "\n", "\r\n", " \n  ", "\r"]
    texts = [text for text, _, _ in REAL.values()]
    texts += ["".join(draw.choice(parts) + draw.choice(ends) for _ in range(draw.randint(1, 30))) for _ in range(500)]
    for text in texts:
        assert EstimatedTokens()._text(text) == tokens._price(text), text
