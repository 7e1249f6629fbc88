"""The simulated engine: how long a request takes, and what it counts for."""

from batchyard.vllm_sim.faults import Fault, FaultKind
from batchyard.vllm_sim.state import SimState
from batchyard.vllm_sim.work import Usage, Work


class Engine:
    """Reads prompts through the prefix cache and keeps the counters."""

    def __init__(self, state: SimState) -> None:
        self._cache = state.prefix_cache
        self._counters = state.counters
        self._settings = state.settings

    def start(self, work: Work) -> Usage:
        """Take a request in: look its prompts up in the prefix cache and count them."""
        counters = self._counters
        prompt = sum(len(prompt.tokens) for prompt in work.prompts)
        completion = sum(generation.tokens for generation in work.generations)
        cached = None
        if self._cache is not None:
            cached = sum(self._cache.admit(prompt.tokens) for prompt in work.prompts)
            counters.prefix_queries += prompt
            counters.prefix_hits += cached
        counters.prompt_tokens += prompt
        counters.resident_tokens += prompt + completion
        return Usage(prompt, completion, cached)

    def finish(self, work: Work, usage: Usage) -> None:
        """Count a request whose answer is complete."""
        self._counters.generation_tokens += usage.completion
        for reason in {generation.finish_reason for generation in work.generations} or {"stop"}:
            self._counters.finished[reason] += 1

    def leave(self, usage: Usage) -> None:
        """Let a request's tokens go, however it ended."""
        self._counters.resident_tokens -= usage.prompt + usage.completion

    def prefill_seconds(self, usage: Usage, fault: Fault | None) -> float:
        """Return the time until the first token: cached prompt tokens take none."""
        settings = self._settings
        computed = usage.prompt - (usage.cached or 0)
        seconds = settings.base_latency + settings.prompt_token_latency * computed
        if fault is not None:
            seconds += fault.delay
            if fault.kind is FaultKind.SLOW:
                seconds += settings.slow_seconds
        return seconds

    def decode_seconds(self, work: Work) -> float:
        """Return the time of the longest text; those of one request are generated side by side."""
        return self._settings.token_latency * longest(work)


def longest(work: Work) -> int:
    """Return the length in tokens of the longest text to generate, 0 if there is none."""
    return max((generation.tokens for generation in work.generations), default=0)
