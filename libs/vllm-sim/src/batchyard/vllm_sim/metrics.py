"""The engine's counters, and /metrics with vLLM's names and labels."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from batchyard.vllm_sim.capacity import Capacity
from batchyard.vllm_sim.settings import SimSettings

_LABELS = ("engine", "model_name")
FINISH_REASONS = ("stop", "length", "abort", "error")


@dataclass(slots=True)
class EngineCounters:
    """What the engine has done so far, in tokens, and how many requests ended for which reason.

    `resident_tokens` are those of the running requests: what the KV cache would hold.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    resident_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Count from zero again; what is resident stays."""
        self.prompt_tokens = self.generation_tokens = self.prefix_queries = self.prefix_hits = 0
        self.finished.clear()


class EngineCollector(Collector):
    """Reads the counters when /metrics is asked, so that requests pay nothing for it."""

    def __init__(self, settings: SimSettings, capacity: Capacity, counters: EngineCounters) -> None:
        self._cache_tokens = settings.cache_blocks * settings.block_size
        self._values = ("0", settings.models[0])
        self._capacity = capacity
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """Yield one family per metric."""
        capacity, counters = self._capacity, self._counters
        yield self._gauge("num_requests_running", "Requests in execution.", capacity.running)
        yield self._gauge("num_requests_waiting", "Requests waiting for a slot.", capacity.waiting)
        yield self._waiting_by_reason()
        used = min(1.0, counters.resident_tokens / self._cache_tokens)
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage, 1 is full.", used)
        yield self._counter("num_preemptions", "Preemptions; the simulator has none.", 0)
        yield self._counter("prefix_cache_queries", "Tokens looked up.", counters.prefix_queries)
        yield self._counter("prefix_cache_hits", "Tokens found in the cache.", counters.prefix_hits)
        yield self._counter("prompt_tokens", "Tokens read.", counters.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated.", counters.generation_tokens)
        yield self._requests_by_reason()

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> CounterMetricFamily:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _waiting_by_reason(self) -> GaugeMetricFamily:
        labels = (*_LABELS, "reason")
        family = GaugeMetricFamily("vllm:num_requests_waiting_by_reason", "Requests waiting.", labels=labels)
        family.add_metric((*self._values, "capacity"), self._capacity.waiting)
        family.add_metric((*self._values, "deferred"), 0)
        return family

    def _requests_by_reason(self) -> CounterMetricFamily:
        labels = (*_LABELS, "finished_reason")
        family = CounterMetricFamily("vllm:request_success", "Requests ended.", labels=labels)
        for reason in FINISH_REASONS:
            family.add_metric((*self._values, reason), self._counters.finished[reason])
        return family


def exposition(collector: EngineCollector) -> bytes:
    """Return the metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
