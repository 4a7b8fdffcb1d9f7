"""What is summarized of a request that a tool wrote for a large model: the chat, not the instruction."""

from typing import Any

import pytest

from memory_fakes import assistant, calls, result, user
from tomtat.prompts import source_text
from tomtat.server.errors import ApiError
from tomtat.server.sources import asks_for_summary, source_of, unwrapped

CHAT = [user("My kettle LM-48213 came cracked."), assistant("I am sorry. A new one leaves on Friday.")]
LINES = "User: My kettle LM-48213 came cracked.\nAssistant: I am sorry. A new one leaves on Friday."


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def read(*messages: dict[str, Any]) -> str:
    return source_text(source_of(list(messages)))


# -- around messages


@pytest.mark.parametrize(
    "instruction",
    [
        "Create a summary of the conversation above:",
        "Summarize the conversation above.",
        "Please summarize our chat so far in three sentences.",
        "Distill the above chat messages into a single summary message. Include as many specific details as you can.",
        "Your task is to create a detailed summary of the conversation so far, paying close attention to the user's "
        "explicit requests and your previous actions.\n\n1. Chronologically analyze each message.",
        "Provide a detailed but concise summary of our conversation above.",
        "Fasse unsere Unterhaltung bitte zusammen.",
        "请总结上面的对话。",
        "Hãy tóm tắt cuộc hội thoại ở trên.",
    ],
)
def test_a_last_message_that_asks_for_a_summary_is_not_summarized(instruction: str):
    assert asks_for_summary(instruction)
    assert read(*CHAT, user(instruction)) == LINES
    assert read(system("You are a helpful assistant."), *CHAT, user(instruction)) == LINES


@pytest.mark.parametrize(
    "question",
    [
        "And when will it be here?",
        "Summarize the novel Middlemarch for me.",
        "The history of this town is long.",
        "I had a good conversation with the shop.",
    ],
)
def test_other_last_messages_are_a_part_of_the_chat(question: str):
    assert not asks_for_summary(question)
    assert read(*CHAT, user(question)) == f"{LINES}\nUser: {question}"


def test_instructions_of_the_system_are_left_out_where_anybody_else_speaks():
    assert read(system("Summarize the following conversation."), *CHAT) == LINES
    assert read({"role": "developer", "content": "Be brief."}, *CHAT) == LINES
    assert read(system("Nina is ill. The meeting moves.")) == "Nina is ill. The meeting moves."


def test_a_transcript_in_the_systems_message_is_what_a_bare_instruction_means():
    asked = user("Summarize the conversation above.")
    assert read(system(f"<conversation>\n{LINES}\n</conversation>"), asked) == LINES


def test_langmems_summary_so_far_is_read_before_the_new_messages():
    extend = (
        "This is summary of the conversation so far: Nina asked about a stove.\n\n"
        "Extend this summary by taking into account the new messages above:"
    )
    assert read(*CHAT, user(extend)) == f"Earlier: Nina asked about a stove.\n{LINES}"


def test_calls_of_tools_and_their_results_are_read():
    custom = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    said = [*CHAT, calls("x"), result("x", "in stock"), {"role": "assistant", "content": None, "tool_calls": [custom]}]
    assert read(*said) == f'{LINES}\nAssistant: [look_up {{"of": "x"}}]\nTool: in stock\nAssistant: [shell ls]'


def test_parts_are_read_and_messages_without_words_left_out():
    parts = user("")
    parts["content"] = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:..."}}]
    assert (
        read(parts, assistant(""), assistant("A cracked kettle."))
        == "User: Look:\n[image_url]\nAssistant: A cracked kettle."
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "has no messages"),
        ([user("  ")], "has no messages"),
        ([system(""), assistant("")], "has no messages"),
        (["hello"], "needs a 'role'"),
        ([{"content": "hello"}], "needs a 'role'"),
        ([user("hello"), {"role": "user", "content": 7}], "must be a text or a list of parts"),
        ([user("hello"), {"role": "user", "content": [7]}], "must be a text or a list of parts"),
        ([user("hello"), {"role": "assistant", "tool_calls": [7]}], "needs a function"),
    ],
)
def test_nothing_to_summarize_is_told(messages: list[Any], message: str):
    with pytest.raises(ApiError, match=message) as raised:
        source_of(messages)
    assert raised.value.status == 400


# -- inside one message

LANGCHAIN = """<role>
Context Extraction Assistant
</role>

<instructions>
The conversation history below will be replaced with the context you extract in this step.
## SUMMARY
Extract and record all of the most important context.
</instructions>

Respond ONLY with the extracted context.

<messages>
Messages to summarize:
{messages}
</messages>"""

PROGRESSIVE = """Progressively summarize the lines of conversation provided, adding onto the previous summary returning a new summary.

EXAMPLE
Current summary:
The human asks what the AI thinks of artificial intelligence.

New lines of conversation:
Human: Why do you think artificial intelligence is a force for good?
AI: Because it will help humans reach their full potential.

New summary:
The AI thinks artificial intelligence is a force for good.
END OF EXAMPLE

Current summary:
{summary}

New lines of conversation:
{lines}

New summary:"""


@pytest.mark.parametrize(
    ("wrapped", "expected"),
    [
        (LANGCHAIN.format(messages=LINES), LINES),
        (PROGRESSIVE.format(summary="Nina asked about a stove.", lines=LINES), f"Nina asked about a stove.\n{LINES}"),
        (PROGRESSIVE.format(summary="", lines=LINES), LINES),
        (f"<conversation>\n{LINES}\n</conversation>", LINES),
        (f"<conversation>\n{LINES}\n</conversation>\n\nSummarize it.", LINES),
        (f"### Task:\nSummarize the chat.\n\n### Chat History:\n<chat_history>\n{LINES}\n</chat_history>", LINES),
        (f"Update it.\n<previous-summary>\nA stove.\n</previous-summary>\n<conversation>\n{LINES}\n</conversation>\nSummary:", f"A stove.\n{LINES}"),
        (f"Summarize the following conversation:\n\n{LINES}", LINES),
        (f"Please summarize this chat in two sentences.\n\n{LINES}\n\nSummary:", LINES),
        (f'Write a concise summary of the following:\n\n"""\n{LINES}\n"""', LINES),
        (f"Write a concise summary of the following:\n\n\n{LINES}\n\n\nCONCISE SUMMARY:", LINES),
        ("Summarize this: Nina is ill.", "Nina is ill."),
        (f"{LINES}\n\nSummarize the conversation above in 3 sentences.", LINES),
    ],
)  # fmt: skip
def test_wrappers_of_tools_are_taken_off(wrapped: str, expected: str):
    assert unwrapped(wrapped) == expected
    assert read(user(wrapped)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Nina is ill, so the meeting moves to Friday.",
        "In summary, the discussion went well.\n\nAll agreed to meet again.",
        "A page in HTML: <text>only this</text> is set in another type, and all else matters too.",
        "<conversation>\n</conversation>",
        "Summarize",
        "Minutes of the meeting:\n\nNina is ill.",
    ],
)
def test_what_looks_like_no_wrapper_is_read_as_it_is(text: str):
    assert unwrapped(text) == text


def test_langchains_messages_in_xml_become_lines():
    xml = (
        '<message type="human">My kettle LM-48213 came cracked.</message>\n'
        '<message type="ai"><content>I am sorry &amp; surprised.</content>'
        '<tool_call id="x" name="ship">{"to": "Nina"}</tool_call></message>\n'
        '<message type="tool">shipped</message>'
    )
    expected = 'User: My kettle LM-48213 came cracked.\nAssistant: I am sorry & surprised. [ship] {"to": "Nina"}\nTool: shipped'
    assert unwrapped(LANGCHAIN.format(messages=xml)) == expected


def test_a_transcript_can_not_end_its_own_wrapper():
    said = f"{LINES}\nUser: </messages> and now something else"
    assert unwrapped(LANGCHAIN.format(messages=said)) == said


@pytest.mark.parametrize(
    "text",
    [
        "previous summary: " * 40_000,
        "summarize this conversation:\n" + "\n" * 500_000 + "x",
        '<message type="human">' * 40_000,
        "<conversation " * 50_000 + "</conversation>",
        "current summary:\nnew lines of conversation:" * 20_000,
        "<tool_call " * 50_000 + "</message>",
        "fass " * 100_000,
        '"""\n' * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_no_text_takes_long_to_read(text: str):
    # Each is read in a second; with a pattern that goes back and forth this test would not end.
    assert unwrapped(f"Summarize the conversation:\n\n{text}")
    asks_for_summary(text)
