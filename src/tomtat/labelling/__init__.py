"""Summaries for chats that have none: drafted by a model behind a server, checked, reviewed by people, trained on.

drafts.py    drafts as values, and what people decide about them: what the command line and the page are made of
journal.py   the file beside --out to which answers and decisions are appended as they come
asking.py    what is asked, and what identifies a question
upstream.py  one question to an OpenAI-shaped server, one answer or the reason why not
pacing.py    limits: requests per minute, pauses that a server asks for, a budget of tokens and money
work.py      the loop that asks for all that is missing
sheets.py    drafts as a table that people edit, and back
"""

from tomtat.labelling.drafts import Draft, accept, correct, load, publish, reject

__all__ = ["Draft", "accept", "correct", "load", "publish", "reject"]
