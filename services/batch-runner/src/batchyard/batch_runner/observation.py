"""What is seen of a deployment: what it says about itself, and what has come back from it; and what that is worth."""

import math
from dataclasses import dataclass

_BUSY = 0.8  # of the limit: with less in flight, the limit is not what bounds the throughput
_WORTHWHILE = 0.1  # of a step's relative size: what it has to bring in throughput to be kept
_WAVES = 4  # so many answers for each request in flight can be counted; one wave more or less is little then


@dataclass(frozen=True, slots=True)
class Load:
    """What a server says about itself.

    Attributes:
        running: Requests in the batch that is being computed.
        waiting: Requests in its queue.
        kv_usage: Share of the KV cache that is taken, 0…1; None if it does not say.
        preemptions: Requests that lost their place since it started; None if it does not say.
    """

    running: float
    waiting: float
    kv_usage: float | None = None
    preemptions: float | None = None

    @property
    def untold(self) -> tuple[str, ...]:
        """What it does not say: the limit is not cut for that."""
        told = {"kv_cache_usage": self.kv_usage, "preemptions": self.preemptions}
        return tuple(name for name, value in told.items() if value is None)


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a deployment.

    Attributes:
        now: Monotonic seconds.
        in_flight: Requests that the limit speaks of.
        most: Of those, as many as there have been at once since the last look; a look often comes just when many
            have ended.
        completions: Answers since the last look.
        tokens: Tokens generated in them; 0 where answers have none.
        seconds: What those answers took, summed up.
        load: None when the server does not say.
        siblings: Requests that this process has there besides `in_flight`, through other pools.
        leaving: Requests of our own that were taken back, and may still be there.
        throttled: 429 and 503 answers since the last look.
        timeouts: Requests that were given up since.
    """

    now: float
    in_flight: int
    completions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    load: Load | None = None
    most: int = 0
    siblings: int = 0
    leaving: float = 0.0
    throttled: int = 0
    timeouts: int = 0

    def is_busy(self, limit: int) -> bool:
        """Whether the limit is what bounds the throughput."""
        return self.at_most >= _BUSY * limit

    @property
    def at_most(self) -> int:
        """As many as have been in flight at once."""
        return max(self.in_flight, self.most)

    @property
    def others(self) -> float:
        """Requests that other clients have there."""
        if self.load is None:
            return 0.0
        return max(0.0, self.load.running + self.load.waiting - self.in_flight - self.siblings - self.leaving)


@dataclass(slots=True)
class Window:
    """What was seen at one limit, from the moment at which only requests sent under it come back.

    Attributes:
        begins: That moment, in monotonic seconds.
        span: Seconds in which the answers came that are counted here.
        seconds: What those answers took, summed up.
    """

    begins: float
    looks: int = 0
    busy: int = 0
    in_flight: int = 0
    completions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    span: float = 0.0

    def add(self, seen: Observation, limit: int, elapsed: float) -> None:
        """One more look, `elapsed` seconds after the one before."""
        self.looks += 1
        self.busy += seen.is_busy(limit)
        self.in_flight += seen.at_most
        self.completions += seen.completions
        self.tokens += seen.tokens
        self.seconds += seen.seconds
        self.span += elapsed

    @property
    def is_busy(self) -> bool:
        return self.busy * 2 > self.looks

    @property
    def speed(self) -> float:
        """Work done for one request in one second: tokens, or answers where there are no tokens."""
        return (self.tokens or self.completions) / max(self.seconds, 1e-9)

    def brings_more(self, limit: float, before: "Window", limit_before: float) -> bool:
        """Whether this limit is worth more than the one before: a greater one has to bring something, a smaller one
        must not cost much."""
        if self.can_be_counted and before.can_be_counted:
            ratio = self.counted / max(before.counted, 1e-9)
        else:
            ratio = self.estimated / max(before.estimated, 1e-9)
        return math.log(max(ratio, 1e-9)) > _WORTHWHILE * math.log(limit / limit_before)

    @property
    def can_be_counted(self) -> bool:
        """Whether so many answers came that one wave of them more or less would be little."""
        return self.completions * self.looks >= _WAVES * self.in_flight and self.span > 0

    @property
    def counted(self) -> float:
        """Work done in one second, where many answers came for each request in flight."""
        return (self.tokens or self.completions) / self.span

    @property
    def estimated(self) -> float:
        """Work done in one second, by Little's law: counting what ends within a short window would depend on whether a
        wave of requests that began together ends just before or just after it."""
        return self.speed * self.in_flight / max(self.looks, 1)
