"""What exact strings look like: addresses, paths, commands, ids, amounts, dates, names; in English and Vietnamese."""

from typing import Literal

import regex

from tomtat.text.details import OPENERS

Kind = Literal[
    "url", "command", "path", "id", "symbol", "amount", "date", "time", "quote", "name", "opener", "number", "several",
]  # fmt: skip
"""A symbol is an id of letters alone, an opener a word with a capital that opens a sentence; several are
numbers, days and hours side by side."""

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_VIETNAMESE_DAY = r"\b(?:(?:thứ|t) ?(?:hai|ba|tư|năm|sáu|bảy|[2-7])\b|chủ nhật|cn\b)"
_UNIT = (
    r"(?:%|°[CF]?|[kmgt]?i?b|[kmc]?m²?|m2|m3|km/h|kn|nm|k?g|mg|lbs?|oz|m?l|l|[kMG]?Hz|k?Wh?|V|A|Ah|mAh|h|hrs?|hours?|mins?|minutes?"
    r"|secs?|seconds?|days?|weeks?|months?|years?|euros?|eur|usd|gbp|pln|brl|vnd|đồng|đ|triệu|nghìn|tỷ|ngàn|k|tr|zł|kr|chf|dollars?|pounds?"
    r"|points?|pages?|pieces?|people|persons?|units?|boxes|metres?|meters?|feet|ft|inch(?:es)?|litres?|liters?|grams?|kilos?|degrees?|percent"
    r"|người|ngày|giờ|phút|tháng|năm|tuần|cái|ly|kg)"
)
_NUMBER = r"\d+(?:[.,:’' ]\d{3})*(?:[.,]\d+)?(?!\d)"
_CURRENCY = r"(?:[$€£¥₹₫₦]|R\$|US\$|A\$|C\$|zł|kr\.?|Rs\.?|CHF|EUR|USD|GBP|PLN|BRL|VND|DKK|SEK|NOK|CZK|HUF|RON|KES|NGN|GHS|INR|IDR|MXN)"

_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("url", r"(?:https?://|www\.)[^\s<>\"')\]]+[^\s<>\"')\].,;:!?]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("command", r"(?<=`)[^`\n]{2,80}(?=`)|(?m:(?<=^\s*[$#>] )[^\n]{3,80}$)|(?<![\w=])[\w.+-]*\w\s?==?\s?[\w*:./\"'+-]*[\w\"')](?:\(\))?|(?<![\w-])--?[a-z][\w-]+(?:[= ][\w./]+)?(?=\s|$)|\w+\(\)"),
    ("path", r"(?<![\w/])(?:~|\.{1,2})?/[\w.@+-]+(?:/[\w.@+*-]*)*|[A-Za-z]:\\[\w\\.-]+|(?<![\w/])[\w-]+(?:/[\w.-]+)+\.\w{1,5}\b|(?<![\w/.@])[\w-]+(?:\.[\w-]+)*\.(?:py|js|ts|r|R|rs|sh|sql|csv|tsv|json|jsonl|ya?ml|toml|ini|conf|cfg|log|txt|md|docx?|xlsx?|pdf|png|jpe?g|zip|gz|db|env|tex|bib|ipynb|html|css|service|timer)\b"),
    ("date", rf"(?<![\d.,:])(?i:(?=[\dacdefjlmnostw])(?:(?:{_DAY},? )?(?:the )?\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}\b\.?(?:,? \d{{4}})?|(?:{_DAY},? )?\b{_MONTH}\.? (?:the )?\d{{1,2}}(?:st|nd|rd|th)?\b(?:,? \d{{4}})?|(?:{_DAY} )?\bthe \d{{1,2}}(?:st|nd|rd|th)\b|\b{_DAY} \d{{1,2}}\b(?![:.]\d)|\d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?|(?:ngày |mồng |mùng |{_VIETNAMESE_DAY} )?(?<![\d/])\d{{1,2}}/\d{{1,2}}(?:/\d{{2,4}})?(?![\d/])|(?<!\d)\d{{1,2}}\.\d{{1,2}}\.(?:\d{{2,4}})?(?=\D|$)|(?:ngày|mồng|mùng) \d{{1,2}}|tháng \d{{1,2}}|(?:end of |early |late |mid[- ])?(?<!\w){_MONTH}\b(?: \d{{4}})?|\b{_DAY}\b|{_VIETNAMESE_DAY}))"),
    ("time", r"(?i:(?<![\d:.,])(?:\d{1,2}:\d\d(?::\d\d)?(?:\s?[ap]\.?m\b\.?)?|\d{1,2}(?:\.\d\d)?\s?[ap]m\b|\d{1,2}(?:h|g)\d{0,2}\b|\d{1,2} o'clock))"),
    ("amount", rf"(?=[$€£¥₹₫₦A-Zzk\d±+-])(?:(?:{_CURRENCY}|(?<!\w)[A-Z](?=\d+[,.]\d))\s?{_NUMBER}[kKmM]?\b|(?<![\w.])[±+-]?{_NUMBER}\s?(?:{_CURRENCY}|(?i:{_UNIT}))(?!\w)(?:/\w+)?(?: \d{{1,3}}(?!\w|[.,:/]\d))?|(?<![\w.])\d+(?:[.,]\d+)?(?:\s?[x×]\s?\d+(?:[.,]\d+)?)+(?:\s?(?i:{_UNIT})(?!\w))?)"),
    ("id", r"(?<!\w)(?=[\w-])(?:(?<!\.)[\w-]+(?:\.[\w-]+)*\.(?:example|internal|local|lan|org|com|net)\b|v?\d+(?:\.\d+){2,}[\w-]*|v\d+(?:\.\d+)*\b|(?=[\w-]*\d)(?=[\w-]*[A-Z])[A-Z0-9]+(?:[-/][A-Z0-9]+)*[a-z]?(?!\w)|(?=\w*\d)(?=\w*[A-Za-z])\w{6,}(?:-\w+)*(?!\w)|[\w]*_[\w]*\w(?!\w)|(?=[\w+-]*\d)(?=[\w+-]*\p{L})(?!\d+-\p{Ll}+)\w+(?:[-+]\w+)+(?!\w)|(?=\w*\d)(?=\w*\p{Lu})(?!\d+[A-Z]\b)\w{3,}(?!\w)|[A-Z]{2,3} \d{3,}(?:-\d+)?)|#[0-9a-fA-F]{3,6}\b|(?<!\w)#\d+\b"),
    ("quote", r"(?<=[\"“])[^\"“”\n]{2,60}(?=[\"”](?!:))|(?<=«\s?)[^«»\n]{2,60}(?=\s?»)"),
    ("number", rf"(?<![\w.,])\d{{3}} \d{{4}}(?!\w)|(?<![\w.,])±?{_NUMBER}(?:[–-]\d+)?(?!\w)"),
)  # fmt: skip

# Most places in a text begin none of them: what all of a kind begin with stands in front, or each would try it itself.
STRINGS = [(kind, regex.compile(pattern)) for kind, pattern in _PATTERNS]
"""What an earlier pattern has found, no later one takes apart."""
_DIGIT = r"\d++"
WITHOUT_WHICH = {
    kind: regex.compile(pattern)
    for kind, pattern in {
        "url": r"://|www\.|@",
        "command": r"[`=]|\(\)|(?<![\w-])--?[a-z]|[$#>] ",
        "path": r"[/\\]|\.\w",
        "date": rf"\d++|(?i:\b(?:{_MONTH}|{_DAY})|{_VIETNAMESE_DAY})",
        "time": _DIGIT,
        "amount": _DIGIT,
        "id": r"\d++|[#_]|\.(?:example|internal|local|lan|org|com|net)\b",
        "quote": r"[\"“«]",
        "number": _DIGIT,
    }.items()
}
"""What a text must have for one of a kind to be in it: most turns of a chat have nothing that needs the long patterns,
and of the others most have it in one place."""
ANYWHERE = frozenset(("command", "quote"))
"""Kinds that may have many words before and after that; all others have at most two on either side, and between."""
CAPITALISED = regex.compile(
    r"(?<![\w’'])(?:(?:Dr|Mr|Mrs|Ms|M|St|Prof|Herr|Frau|Sr|Sra)\.? )?\p{Lu}[\w’'-]*"
    r"(?:(?: (?:d[aeo]s?|de la|del|van|von|der|of|al|el|bin|ibn|y))? \p{Lu}(?:\.(?=\s)|[\w-]*(?=\W|$)))*"
)
"""Capitalised words, together where they stand side by side: Dr. Filipa Nogueira, Rua das Oliveiras."""
NO_NAMES = OPENERS | frozenset(
    """i'm good morning fine wrong great hello got makes means doesn isn can't agreed understood added changed sent
    booked noted corrected entered yeah yep hm hmm ah nope happy glad dạ vâng em anh chị con cô chú bác ạ ừ thì là để
    vậy còn nếu có không được cho cái tôi mình thôi rồi mà của với các những một hai ba bốn năm nhưng nên khi đã đang sẽ
    xin cảm bạn ông bà thế hay đúng đây đó này kia""".split()
)
"""Words that open sentences with a capital and are nobody's name."""
