"""One deployment of a pool, as this process sees it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from batchyard.batch_runner.breaker import Breaker
from batchyard.batch_runner.flight import Flights
from batchyard.batch_runner.priority import PriorityProbe
from batchyard.batch_runner.steering import Steering
from batchyard.batch_runner.upstream import Health
from batchyard.batch_runner.verdict import Reason
from batchyard.common.config import Deployment


@dataclass(slots=True)
class Member:
    """One deployment as this process sees it.

    Attributes:
        ceiling: Requests in flight at most, whatever it seems to take.
        limit: Requests in flight at most for now.
        flights: What is in flight, and what has been.
        steering: How the limit is found; None if it is not looked for.
        queue: Requests, of whomever, that waited there when it was last looked at.
        breaker: Whether it is sent requests, from what became of those before.
        priority: Whether it takes one.
        rests_until: Monotonic second until which nothing is sent because the server asked for it.
        is_tried: Whether it was sent a request though it says that it is unwell.
        trusts_health: Whether what `/health` says is believed; not once requests were answered in spite of it.
        cuts: How often the limit was lowered, by reason.
        removed: Whether it has left the configuration; what is in flight ends as it may.
    """

    deployment: Deployment
    ceiling: int
    limit: int
    flights: Flights
    breaker: Breaker
    steering: Steering | None = None
    in_flight: int = 0
    queue: float = 0.0
    priority: PriorityProbe = field(default_factory=PriorityProbe)
    rests_until: float = 0.0
    is_tried: bool = False
    trusts_health: bool = True
    removed: bool = False
    cuts: Counter[Reason] = field(default_factory=Counter)
    probe: asyncio.Task[Health] | None = field(default=None, repr=False)

    @property
    def down(self) -> bool:
        """Whether it does not answer; nothing is sent until a probe says otherwise."""
        return self.breaker.is_down

    def is_open(self, now: float) -> bool:
        return self.opens_in(now) == 0.0

    def opens_in(self, now: float) -> float | None:
        """Seconds after which it may be sent something, as far as that is a matter of time; 0 for now, else None."""
        if self.in_flight >= self.limit:
            return None
        wait = self.breaker.closed_for(now)
        if wait is None:
            return None
        allowance = self.flights.allowance
        allowed = 0.0 if allowance.is_unlimited else allowance.closed_for(now)
        return max(wait, allowed, self.rests_until - now)

    @property
    def load(self) -> float:
        return (self.in_flight + self.queue) / self.deployment.weight
