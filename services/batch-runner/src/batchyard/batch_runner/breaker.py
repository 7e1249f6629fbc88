"""A circuit breaker: whether a deployment is sent requests, from what became of those before. No I/O.

    closed ──failures──► open ──the cool-down is over, or it answers again──► half-open ──successes──► closed
                           ▲                                                      │
                           └──────────────────── a failure, a longer cool-down ───┘

Source: Michael Nygard, Release It!; https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

_COOLDOWN = 0.5
_PROBES = 3  # requests that a half-open one gets at once; as many successes close it
_MORE_PROBES_AFTER = 5.0  # seconds, twice as many each time: answers may take long
_SETTLED = 50  # successes after which earlier trouble is forgotten
_OUTCOMES = 20
_FAILING = 0.5
_WORSE = 2.0


class Circuit(StrEnum):
    """`OPEN`: nothing is sent. `HALF_OPEN`: a few requests, to see what becomes of them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """`failures` in a row open it. It stays open for half a second at first, then for twice as long each time that it
    opens again, for `cooldown_cap` seconds at most."""

    failures: int = 5
    cooldown_cap: float = 30.0


class Breaker:
    """The breaker of one deployment. All times are monotonic seconds.

    What became of a request counts when the request was begun since the state last changed: those that were under way
    when it opened say nothing new.

    Attributes:
        is_down: Whether it is open until `answers` is called, however long that takes.
        times_opened: Since this process knows it.
        failures: Requests that failed since the last that did not.
    """

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self._state = Circuit.CLOSED
        self._since = 0.0
        self._until = 0.0
        self._streak = 0
        self._successes = 0
        self._needed = _PROBES
        self._admitted = 0
        self._rounds = 0
        self._outcomes: deque[bool] = deque(maxlen=_OUTCOMES)
        self.is_down = False
        self.times_opened = 0
        self.failures = 0

    @property
    def is_closed(self) -> bool:
        return self._state is Circuit.CLOSED

    @property
    def failure_rate(self) -> float:
        """The share of the last requests that failed; 0 while they are too few to tell."""
        return self._outcomes.count(False) / _OUTCOMES if len(self._outcomes) == _OUTCOMES else 0.0

    def state(self, now: float) -> Circuit:
        """What it is now: one whose cool-down is over is half-open, though nobody has tried yet."""
        if self._state is Circuit.OPEN and not self.is_down and now >= self._until:
            return Circuit.HALF_OPEN
        return self._state

    def closed_for(self, now: float) -> float | None:
        """Seconds until it lets the next request through; 0 for now, None when nobody knows."""
        if self._state is Circuit.CLOSED:
            return 0.0
        if self.is_down:
            return None
        if self._state is Circuit.HALF_OPEN and self._admitted < self._needed * (self._rounds + 1):
            return 0.0
        return max(0.0, self._until - now)

    def admit(self, now: float) -> None:
        """A request is let through."""
        if self._state is Circuit.CLOSED:
            return
        if self._state is Circuit.OPEN:
            self._half_open(now, _PROBES)
        elif self._admitted >= self._needed * (self._rounds + 1):
            self._rounds += 1
            self._until = now + _MORE_PROBES_AFTER * 2.0**self._rounds
        self._admitted += 1

    def succeeded(self, began: float, now: float) -> bool:
        """A request that began then was answered; whether that has closed the circuit."""
        if began < self._since or self._state is Circuit.OPEN:
            return False
        self.failures = 0
        self._successes += 1
        self._outcomes.append(True)
        if self._successes == _SETTLED:
            self._streak = 0
        if self._state is Circuit.CLOSED or self._successes < self._needed:
            return False
        self._change(Circuit.CLOSED, now)
        return True

    def failed(self, began: float, now: float, *, others: float | None) -> bool:
        """A request that began then was not; whether that has opened the circuit.

        Args:
            others: The highest failure rate among deployments that could do the work instead; None if there are none.
                Then nothing is opened, and what is half-open is closed: it does answer, the fault may be the requests',
                and nobody would be helped by waiting.
        """
        if began < self._since or self._state is Circuit.OPEN:
            return False
        self.failures += 1
        self._outcomes.append(False)
        if others is None:
            if self._state is Circuit.HALF_OPEN:
                self._change(Circuit.CLOSED, now)
            return False
        if self._state is Circuit.CLOSED and not self._is_bad(others):
            return False
        self._cool_down(now)
        return True

    def trip(self, now: float) -> None:
        """The deployment does not answer: open, until `answers`."""
        self._change(Circuit.OPEN, now)
        self.is_down = True
        self.times_opened += 1

    def answers(self, now: float, probes: int = _PROBES) -> None:
        """It does again: half-open, and closed by as many successes."""
        self.is_down = False
        self._half_open(now, probes)

    def _is_bad(self, others: float) -> bool:
        rate = self.failure_rate
        return self.failures >= self._rules.failures or (rate >= _FAILING and rate > _WORSE * others)

    def _cool_down(self, now: float) -> None:
        self._change(Circuit.OPEN, now)
        self._until = now + min(self._rules.cooldown_cap, _COOLDOWN * 2.0 ** min(self._streak, 32))
        self._streak += 1
        self.times_opened += 1

    def _half_open(self, now: float, probes: int) -> None:
        self._change(Circuit.HALF_OPEN, now)
        self._needed = probes
        self._until = now + _MORE_PROBES_AFTER

    def _change(self, state: Circuit, now: float) -> None:
        self._state = state
        self._since = now
        self._successes = self._admitted = self._rounds = 0
        self.failures = 0
        self._outcomes.clear()
