"""How many requests a key and a team may make, in a minute and at a time. Each gateway counts by itself.

A rate is kept by the generic cell rate algorithm (https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm): the
requests of a minute may come at once, and each is regained a limit's part of a minute later. It remembers one moment
for each name, so a refusal costs nothing and grows nothing.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from batchyard.common.clock import Clock
from batchyard.common.contracts.access import Limits
from batchyard.common.errors import TooManyRequests
from batchyard.gateway.auth import Identity

LIMIT_HEADER = "x-ratelimit-limit-requests"
REMAINING_HEADER = "x-ratelimit-remaining-requests"

_MINUTE = 60.0
_TIDY_ABOVE = 10_000
_SLACK = 1e-6  # of a second: sums of fractions are not exact


@dataclass(frozen=True, slots=True)
class _Bound:
    """Whose limits: `name` tells them apart from all others."""

    name: str
    whose: str
    limits: Limits


class Refused(TooManyRequests):
    """Too many requests; `headers` say so too."""

    def __init__(self, message: str, retry_after: int, headers: dict[str, str]) -> None:
        super().__init__(message, retry_after=retry_after)
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may go on. `leave` is to be called once it has been answered."""

    headers: dict[str, str]
    leave: Callable[[], None]


class RequestLimits:
    """Counts the requests of keys and teams that have limits. The master key has none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used_until: dict[str, float] = {}
        self._running: Counter[str] = Counter()

    def admit(self, identity: Identity) -> Admitted:
        """Let a request in. One that is refused counts for nobody.

        Raises:
            Refused: The key or its team makes too many.
        """
        bounds = _bounds_of(identity)
        now = self._clock.monotonic()
        for bound in bounds:
            self._check_rate(bound, now)
        parallel = [bound for bound in bounds if bound.limits.max_parallel_requests is not None]
        for bound in parallel:
            self._check_parallel(bound)
        taken = [self._take(bound, now) for bound in bounds]
        _, headers = min(taken, key=lambda left: left[0], default=(math.inf, {}))
        names = [bound.name for bound in parallel]
        self._running.update(names)
        return Admitted(headers, lambda: self._leave(names))

    def _check_rate(self, bound: _Bound, now: float) -> None:
        limit = bound.limits.rpm_limit
        if limit is None:
            return
        wait = self._wait(bound.name, limit, now)
        if wait > _SLACK:
            raise Refused(
                f"Rate limit reached for {bound.whose}: {limit} requests per minute. Please try again in "
                f"{math.ceil(wait)} s.",
                math.ceil(wait),
                {LIMIT_HEADER: str(limit), REMAINING_HEADER: "0"},
            )

    def _wait(self, name: str, limit: int, now: float) -> float:
        if limit == 0:
            return _MINUTE
        return self._used_until.get(name, 0.0) - now - (_MINUTE - _MINUTE / limit)

    def _check_parallel(self, bound: _Bound) -> None:
        limit = bound.limits.max_parallel_requests
        if limit is not None and self._running[bound.name] >= limit:
            raise Refused(f"Too many requests at a time for {bound.whose}: at most {limit} are answered.", 1, {})

    def _take(self, bound: _Bound, now: float) -> tuple[float, dict[str, str]]:
        """Count a request; how many are left, and the headers that say so."""
        limit = bound.limits.rpm_limit
        if limit is None:
            return math.inf, {}
        self._tidy(now)
        used_until = max(self._used_until.get(bound.name, 0.0), now) + _MINUTE / limit
        self._used_until[bound.name] = used_until
        remaining = int((_MINUTE - (used_until - now)) * limit / _MINUTE + _SLACK)
        return remaining, {LIMIT_HEADER: str(limit), REMAINING_HEADER: str(remaining)}

    def _tidy(self, now: float) -> None:
        if len(self._used_until) > _TIDY_ABOVE:
            self._used_until = {name: until for name, until in self._used_until.items() if until > now}

    def _leave(self, names: list[str]) -> None:
        self._running.subtract(names)
        for name in names:
            if not self._running[name]:
                del self._running[name]


def _bounds_of(identity: Identity) -> list[_Bound]:
    if identity.key is None:
        return []
    bounds = [_Bound(f"key {identity.key.key_id}", f"the API key {identity.key.key_name}", identity.key.limits)]
    if identity.team is not None:
        team = identity.team
        bounds.append(_Bound(f"team {team.team_id}", f"the team '{team.team_alias or team.team_id}'", team.limits))
    return bounds
