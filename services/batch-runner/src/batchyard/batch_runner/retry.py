"""What to do after a failed attempt: a value that answers one question."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})
THROTTLED = 429
MAX_RETRY_AFTER = 120.0


class Failure(StrEnum):
    """Why an attempt gave no result. The values are the codes that a line's error has."""

    UNREACHABLE = "server_unreachable"  # the request was never sent
    REFUSED = "server_error"  # an answer, of a status that may pass
    THROTTLED = "rate_limit_exceeded"  # 429
    TIMED_OUT = "request_timeout"
    BROKEN = "connection_lost"  # the connection ended before the answer did
    MALFORMED = "malformed_response"  # 200, but not a JSON object
    ABORTED = "request_aborted"  # 200, but the server says that it gave up


def is_retryable(status: int) -> bool:
    """Whether an answer of this status may be another one next time; anything else is the line's own result."""
    return status in RETRYABLE_STATUSES or status >= 500


@dataclass(frozen=True, slots=True)
class Spent:
    """What one line has used up so far.

    Attributes:
        failures: How often it failed, by kind.
        seconds: What its attempts took, and the waits after them. To wait for a server that is away, or for its turn,
            costs nothing.
    """

    failures: Mapping[Failure, int] = field(default_factory=dict)
    seconds: float = 0.0

    def after(self, failure: Failure, seconds: float = 0.0) -> "Spent":
        return Spent({**self.failures, failure: self.failures.get(failure, 0) + 1}, self.seconds + seconds)

    def waited(self, seconds: float) -> "Spent":
        return Spent(self.failures, self.seconds + seconds)

    @property
    def attempts(self) -> int:
        """Those that speak of the line: neither a server that is away nor one that has too much to do must fail the
        lines that wait for it."""
        return self.total - self.failures.get(Failure.THROTTLED, 0)

    @property
    def total(self) -> int:
        """Requests that were sent."""
        return sum(count for failure, count in self.failures.items() if failure is not Failure.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, within budgets.

    Source of the jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Attributes:
        max_attempts: Failures after which a line fails, 429 answers aside.
        base: Seconds that the first wait is at most.
        cap: Seconds that any wait is at most.
        budgets: Failures of one kind after which a line fails.
        max_seconds: What attempts and waits may take together before the last attempt; None for as long as it takes.
    """

    max_attempts: int
    base: float
    cap: float
    budgets: Mapping[Failure, int] = field(default_factory=dict)
    max_seconds: float | None = None

    def is_spent(self, spent: Spent) -> bool:
        if spent.attempts >= self.max_attempts or (self.max_seconds is not None and spent.seconds >= self.max_seconds):
            return True
        return any(spent.failures.get(failure, 0) >= budget for failure, budget in self.budgets.items())

    def delay(self, spent: Spent, rng: random.Random) -> float:
        """Seconds to wait before the next attempt, on whichever deployment is free then."""
        ceiling = min(self.cap, self.base * 2.0 ** min(max(spent.total - 1, 0), 32))
        return rng.uniform(0, ceiling)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number or an HTTP date (RFC 9110, 10.2.3), at most two minutes;
    None if it is neither."""
    if value is None:
        return None
    try:
        return _bounded(float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return _bounded((moment - datetime.fromtimestamp(now, UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    """No server stops a batch for longer than this by one header."""
    if math.isnan(seconds):
        raise ValueError("not a number of seconds")
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
