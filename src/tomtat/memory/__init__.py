"""Chat memory: an append-only log of turns, summaries over spans of it, and the originals brought back when asked for.

    from tomtat.memory import ChatMemory
    from tomtat.store import open_store
    from tomtat import Summarizer

    with open_store("chats.db") as store, ChatMemory(Summarizer.load("runs/chats"), store) as memory:
        memory.append("chat-1", [{"role": "user", "content": "My order LM-48213 came cracked."}])
        messages = memory.context("chat-1", budget_tokens=2000)

A summary replaces nothing until it has passed a gate, and nothing for good: the turns it stands for are kept, linked
to it, and quoted when the newest message asks about them.
"""

from tomtat.memory.chat_memory import ChatMemory, FoldReport
from tomtat.memory.context import Context
from tomtat.memory.folding import SpanSummarizer
from tomtat.memory.folds import Fold, Line
from tomtat.memory.gate import Verdict
from tomtat.memory.ledger import Entry
from tomtat.memory.tokens import EstimatedTokens, HuggingFaceTokens, TiktokenTokens, TokenCounter, counter_for

__all__ = [
    "ChatMemory",
    "Context",
    "Entry",
    "EstimatedTokens",
    "Fold",
    "FoldReport",
    "HuggingFaceTokens",
    "Line",
    "SpanSummarizer",
    "TiktokenTokens",
    "TokenCounter",
    "Verdict",
    "counter_for",
]
