"""Conversations that were saved as text, into messages with the names of those who speak.

Ann: hi                                        a name and what is said; lines without a name go on
[10:02] Ann: hi                                the same with times
12/31/23, 9:15 PM - Ann: hi                    WhatsApp on Android
[31.12.23, 21:15:07] Ann: hi                   WhatsApp on iOS

Dates may be in any order and with any marks, times of 12 or 24 hours: they are only there to be known as such.
"""

import re
from collections import Counter
from collections.abc import Sequence

from tomtat.data.shapes import ROLES
from tomtat.types import Message

_INVISIBLE = str.maketrans("", "", "\u200e\u200f\u202a\u202b\u202c\ufeff")
_DATE = r"(?:\d{1,4}[./\-]\s?\d{1,2}[./\-]\s?\d{1,4}\.?|\d{1,4}年\d{1,2}月\d{1,2}日)"
_HALF = r"(?:\s?(?:[AaPp]\.?\s?[Mm]\.?|SA|CH|AM|PM|上午|下午|오전|오후|午前|午後|π\.μ\.|μ\.μ\.|ص|م))"
_TIME = rf"(?:(?:上午|下午|오전|오후|午前|午後)\s?)?\d{{1,2}}[:.h]\d{{2}}(?:[:.]\d{{2}})?{_HALF}?"
_STAMP = rf"(?:{_DATE}\s?,?\s(?:\S{{1,3}}\s)?{_TIME}|{_TIME},?\s{_DATE})"
_ANDROID = re.compile(rf"{_STAMP}\s[-–]\s(?P<rest>.*)", re.DOTALL)
_IOS = re.compile(rf"\[{_STAMP}\]\s?(?P<rest>.*)", re.DOTALL)
_SENDER = re.compile(r"(?P<name>[^:]{1,60}): ?(?P<words>.*)", re.DOTALL)

_CLOCK = rf"(?:{_DATE}[ ,T]*)?{_TIME}(?:[.,]\d+)?"
_LINE = re.compile(
    rf"(?:[\[(]?{_CLOCK}[\])]?\s*[-–|]?\s*)?"
    # No name has the end of a sentence in it.
    r"(?P<name>(?![^:]*\b[^\W\dA-Z]{2,}[.!?] )"
    r"[^\W\d_][\w.'’#&/-]*(?: [\w.'’#&/(-][\w.'’#&/()-]*){0,4}|#[\w ]{1,30}#|\+?\d[\d ()-]{6,18}\d)"
    rf"\s?(?:[\[(]{_CLOCK}[\])])?\s?(?::(?:\s+|$)|：\s*)(?P<words>.*)"
)
_SUBTITLE_TAG = re.compile(r"<v\s+(?P<name>[^>]+)>(?P<words>.*?)(?:</v>)?$")
_MEDIA = (
    "<media omitted>", "<multimedia omitido>", "<medien ausgeschlossen>", "<médias omis>", "<media omessi>",
    "<mídia oculta>", "<arquivo de mídia oculto>", "<без медиафайлов>", "<bỏ qua phương tiện>", "<media weggelaten>",
    "<file phương tiện bị ẩn>", "<đã bỏ qua tệp đa phương tiện>", "<archivo omitido>",
)  # fmt: skip
_OMITTED = re.compile(
    r"^<?(?:image|video|audio|sticker|gif|document|contact card|bild|imagen|imagem|immagine|vidéo|vídeo|audio"
    r"|foto|hình ảnh|tài liệu|nhãn dán)[\w .-]{0,20} (?:omitted|omitid[oa]|weggelassen|ausgelassen|absente?"
    r"|omess[oa]|ocultad[oa]|bị bỏ qua)>?$",
    re.IGNORECASE,
)
MEDIA = "[media]"
"""Said in place of a picture or sound that was not exported: it may be what the next message answers."""


def conversation_of(text: str) -> tuple[Message, ...] | None:
    """The messages of a text that is a WhatsApp export or a transcript, and None of one that is neither."""
    return whatsapp_messages(text) or transcript_messages(text)


def whatsapp_messages(text: str) -> tuple[Message, ...] | None:
    """System lines (who joined, what is encrypted) are left out; a message may have several lines."""
    lines = text.translate(_INVISIBLE).replace("\u202f", " ").replace("\xa0", " ").split("\n")
    first = next((line for line in lines if line.strip()), "")
    form = _ANDROID if _ANDROID.match(first) else _IOS if _IOS.match(first) else None
    if form is None:
        return None
    said: list[tuple[str, list[str]]] = []
    for line in lines:
        line = line.rstrip("\r")
        if not (match := form.match(line)):
            if said:
                said[-1][1].append(line)
        elif sender := _SENDER.match(match["rest"]):
            said.append((sender["name"].strip().removeprefix("~").strip(), [sender["words"]]))
        else:
            said.append(("", [match["rest"]]))
    messages = [_message(name, "\n".join(words)) for name, words in said if name]
    return tuple(message for message in messages if message.content) or None


def transcript_messages(text: str) -> tuple[Message, ...] | None:
    """A text is a transcript where most of its lines begin with a name, and some name comes twice or two names do."""
    lines = [line.strip() for line in text.replace("\ufeff", "").split("\n")]
    matches = [_SUBTITLE_TAG.match(line) or _LINE.match(line) for line in lines]
    names = Counter(match["name"].strip() for match in matches if match)
    if not _is_transcript(lines, names):
        return None
    said: list[tuple[str, list[str]]] = []
    for line, match in zip(lines, matches, strict=True):
        if match:
            said.append((match["name"].strip(), [match["words"]]))
        elif said and not _is_time(line):
            said[-1][1].append(line)
        elif line and not _is_time(line):
            return None  # an introduction: nobody says it, and it must not be lost
    return tuple(message for name, words in said if (message := _message(name, "\n".join(words))).content)


def _is_transcript(lines: Sequence[str], names: Counter[str]) -> bool:
    spoken, written = sum(names.values()), sum(bool(line) and not _is_time(line) for line in lines)
    if spoken < 2 or (len(names) > 1 and len(names) == spoken and spoken > 4):
        return False  # a form: each label stands once
    return spoken >= 0.5 * written


def _is_time(line: str) -> bool:
    """Times between what is said, as subtitles have them, and their numbers."""
    return bool(re.fullmatch(rf"(?:WEBVTT|\d{{1,5}}|[\[(]?{_CLOCK}[\])]?(?:\s*-->\s*{_CLOCK})?)", line))


def _message(name: str, words: str) -> Message:
    words = words.strip()
    if words.lower() in _MEDIA or _OMITTED.match(words):
        words = MEDIA
    role = ROLES.get(name.lower(), "user")
    return Message(role, words, None if name.lower() == role else name)
