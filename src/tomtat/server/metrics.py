"""What a server counts: for Prometheus, without a tenant's name, and for each tenant its own figures."""

import threading
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass
class Figures:
    """Of one tenant, since this process began."""

    requests: int = 0
    contexts: int = 0
    """Requests that went upstream through the memory."""
    folded: int = 0
    """Of these, those that were made shorter."""
    history_tokens: int = 0
    """What their whole histories would have cost."""
    sent_tokens: int = 0
    summaries: int = 0
    summary_prompt_tokens: int = 0
    summary_new_tokens: int = 0


class Metrics:
    """Safe to use from several threads."""

    content_type = CONTENT_TYPE

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tenants: defaultdict[str, Figures] = defaultdict(Figures)
        self._lock = threading.Lock()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered, by route and status.", "route", "status")
        self._seconds = self._histogram("request_seconds", "Until the last byte of an answer was sent.", "route")
        self._under_way = self._gauge("requests_under_way", "Requests being answered.")
        self._refused = self._counter("refused", "Requests refused before they reached a route.", "reason")
        self._contexts = self._counter("contexts", "Requests sent upstream, by what the memory did.", "outcome")
        self._tokens = self._counter("context_tokens", "Whole histories, and what was sent of them.", "kind")
        self._failures = self._counter("memory_failures", "Requests that went out unchanged after a failure.", "kind")
        self._summaries = self._counter("summaries", "Summaries written, by model.", "model")
        self._summary_tokens = self._counter("summary_tokens", "Read and written for summaries.", "model", "kind")
        self._summary_seconds = self._histogram("summary_seconds", "Of a summary, its wait included.", "model")
        self._upstream = self._counter("upstream_requests", "Answers of upstreams, by status; 0: none came.", "status")
        self._upstream_seconds = self._histogram("upstream_seconds", "Until an upstream's answer began.")
        self._queue = self._gauge("queue", "Requests that wait for the engine.")

    # -- what the parts report

    def request(self, route: str, status: int, seconds: float) -> None:
        """route: as it is declared, with its parameters' names: never a path that a client made up."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def asked(self, tenant: str) -> None:
        with self._lock:
            self._tenants[tenant].requests += 1

    def under_way(self, count: int) -> None:
        self._under_way.set(count)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def context(self, tenant: str, history_tokens: int, sent_tokens: int, outcome: str) -> None:
        """outcome: whole, folded, failed or off."""
        self._contexts.labels(outcome).inc()
        self._tokens.labels("history").inc(history_tokens)
        self._tokens.labels("sent").inc(sent_tokens)
        with self._lock:
            figures = self._tenants[tenant]
            figures.contexts += 1
            figures.folded += outcome == "folded"
            figures.history_tokens += history_tokens
            figures.sent_tokens += sent_tokens

    def memory_failure(self, kind: str) -> None:
        self._failures.labels(kind).inc()

    def summary(self, tenant: str, model: str, prompt_tokens: int, new_tokens: int, seconds: float) -> None:
        self._summaries.labels(model).inc()
        self._summary_tokens.labels(model, "prompt").inc(prompt_tokens)
        self._summary_tokens.labels(model, "new").inc(new_tokens)
        self._summary_seconds.labels(model).observe(seconds)
        with self._lock:
            figures = self._tenants[tenant]
            figures.summaries += 1
            figures.summary_prompt_tokens += prompt_tokens
            figures.summary_new_tokens += new_tokens

    def upstream(self, status: int, seconds: float) -> None:
        self._upstream.labels(str(status)).inc()
        self._upstream_seconds.observe(seconds)

    def queue(self, depth: int) -> None:
        self._queue.set(depth)

    # -- what is read

    def usage(self, tenant: str) -> dict[str, Any]:
        with self._lock:
            return asdict(self._tenants[tenant]) if tenant in self._tenants else asdict(Figures())

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)

    # -- inside

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"tomtat_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"tomtat_{name}", what, registry=self.registry)

    def _histogram(self, name: str, what: str, *labels: str) -> Histogram:
        return Histogram(f"tomtat_{name}", what, labels, registry=self.registry, buckets=SECONDS)
