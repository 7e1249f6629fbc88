"""All that one simulator knows and counts."""

from typing import Any

from batchyard.vllm_sim.capacity import Capacity
from batchyard.vllm_sim.changes import Changes
from batchyard.vllm_sim.faults import FaultPlan
from batchyard.vllm_sim.metrics import EngineCounters
from batchyard.vllm_sim.prefix_cache import PrefixCache
from batchyard.vllm_sim.request_log import RequestLog
from batchyard.vllm_sim.settings import SimSettings


class SimState:
    """The parts of a running simulator, wired together."""

    def __init__(self, settings: SimSettings) -> None:
        self.settings = settings
        self.changes = Changes()
        self.capacity = Capacity(
            settings.max_num_seqs,
            by_priority=settings.scheduling_policy == "priority",
            changes=self.changes,
        )
        self.prefix_cache = PrefixCache(settings.cache_blocks, settings.block_size) if settings.prefix_caching else None
        self.faults = FaultPlan(settings.faults, settings.seed, settings.remembered_prompts)
        self.log = RequestLog(settings.log_size, self.changes)
        self.counters = EngineCounters()
        self.healthy = True

    def reset(self) -> None:
        """Be as at the start: counters, log, caches, fault rates, health. What is in flight goes on."""
        self.log.clear()
        self.capacity.forget_peaks()
        self.counters.clear()
        if self.prefix_cache is not None:
            self.prefix_cache.clear()
        self.faults.set_rates(self.settings.faults, self.settings.seed)
        self.faults.forget_attempts()
        self.healthy = True

    def totals(self) -> dict[str, Any]:
        """Return the totals since the last reset, as /sim/requests shows them."""
        capacity, log, counters = self.capacity, self.log, self.counters
        return {
            "requests": log.total,
            "running": capacity.running,
            "waiting": capacity.waiting,
            "max_running": capacity.max_running,
            "max_in_flight": capacity.max_in_flight,
            "by_status": {str(status): count for status, count in sorted(log.by_status.items())},
            "by_route": dict(log.by_route),
            "by_outcome": dict(log.by_outcome),
            "tokens": {
                "prompt": counters.prompt_tokens,
                "generation": counters.generation_tokens,
                "cached": counters.prefix_hits,
            },
        }
