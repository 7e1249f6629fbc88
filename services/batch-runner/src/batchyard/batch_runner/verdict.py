"""What a limit is, and why."""

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """What the limit follows."""

    METRICS = "metrics"
    LATENCY = "latency"


class Reason(StrEnum):
    """Why the limit is what it is."""

    STARTING = "starting"
    GROWING = "growing"
    TRYING_LESS = "trying_less"
    STEADY = "steady"
    FLAT = "flat"  # more in flight brings nothing
    IDLE = "idle"  # the limit is not what bounds the throughput
    NEARLY_FULL = "nearly_full"  # as many as the server takes
    LEVELLING = "levelling"  # beside others, where the server is nearly full
    YIELDING = "yielding"  # others take the room
    QUEUE = "queue"
    BURST = "burst"
    KV_CACHE = "kv_cache"
    PREEMPTIONS = "preemptions"
    SLOWDOWN = "slowdown"  # without metrics: answers take much longer than they did
    THROTTLED = "throttled"
    TIMEOUTS = "timeouts"


CUTS = frozenset(
    {
        Reason.QUEUE,
        Reason.BURST,
        Reason.KV_CACHE,
        Reason.PREEMPTIONS,
        Reason.SLOWDOWN,
        Reason.THROTTLED,
        Reason.TIMEOUTS,
    }
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What an observation led to.

    Attributes:
        limit: Requests that may be in flight from now on.
        abort: How many of the youngest are to be taken back, since somebody else waits for their places.
    """

    limit: int
    reason: Reason
    abort: int = 0
