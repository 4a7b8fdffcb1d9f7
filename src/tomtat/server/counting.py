"""Counters of tokens, one for each model; estimates learn from what answers report."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from tomtat.memory import EstimatedTokens, HuggingFaceTokens, TokenCounter, counter_for
from tomtat.memory.tokens import encodings
from tomtat.server.upstream import Upstream

KEPT = 64
TOO_FEW, TOO_MANY = 1.03, 0.9
"""Reported over counted tokens, beyond which an estimate learns. Not for less: with every lesson the front of contexts
may change, and a provider's prompt cache begins anew."""


class Counters:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], TokenCounter] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, tenant: str, upstream: Upstream | None, model: str) -> TokenCounter:
        """By the upstream's tokenizer, else by the model's name. A first look may take a moment.

        What an estimate has learned from a tenant's chats stays with the tenant: another would see it in its own
        figures, and could be made to send more or less.

        Raises: ModelError where the upstream's tokenizer can't be loaded.
        """
        tokenizer = upstream.settings.tokenizer if upstream else None
        name, model = upstream.name if upstream else "", "" if tokenizer else model
        counter = self._kept(("", name, model), tokenizer)
        return self._kept((tenant, name, model), tokenizer) if isinstance(counter, EstimatedTokens) else counter

    def _kept(self, key: tuple[str, str, str], tokenizer: str | None) -> TokenCounter:
        with self._lock:
            known = self._known.get(key)
        # Outside the lock: tiktoken may look for its files in the network, and others shan't wait for that.
        counter = known or (_load(tokenizer) if tokenizer else counter_for(_no_path(key[-1])))
        with self._lock:
            counter = self._known.setdefault(key, counter)
            self._known.move_to_end(key)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return counter

    def learn(self, counter: TokenCounter, messages: Sequence[Mapping[str, Any]], counted: int, reported: int) -> None:
        """Take in what an answer reported about messages that were counted as `counted`."""
        if isinstance(counter, EstimatedTokens) and not TOO_MANY * counted <= reported <= TOO_FEW * counted:
            with self._lock:
                counter.learn(messages, reported)


def _load(tokenizer: str) -> TokenCounter:
    return counter_for(tokenizer) if tokenizer in encodings() else HuggingFaceTokens.load(tokenizer)


def _no_path(model: str) -> str:
    """A client's name for a model must not lead to files here."""
    return model if "/" not in model and not model.startswith((".", "~")) else model.rsplit("/", 1)[-1].lstrip(".~")
