"""What to do after a failed attempt: a value that answers one question."""

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})
THROTTLED = 429
MAX_RETRY_AFTER = 120.0


class Failure(Enum):
    """Why an attempt gave no result."""

    UNREACHABLE = "unreachable"  # the request was never sent
    REFUSED = "refused"  # an answer, of a status that may pass
    THROTTLED = "throttled"  # 429
    TIMED_OUT = "timed_out"
    BROKEN = "broken"  # the connection ended before the answer did
    MALFORMED = "malformed"  # 200, but not a JSON object
    ABORTED = "aborted"  # 200, but the server says that it gave up


def is_retryable(status: int) -> bool:
    """Whether an answer of this status may be another one next time; anything else is the line's own result."""
    return status in RETRYABLE_STATUSES or status >= 500


@dataclass(frozen=True, slots=True)
class Spent:
    """What one line has used up so far."""

    attempts: int = 0
    throttled: int = 0

    def after(self, failure: Failure) -> "Spent":
        """A request that never left costs nothing: a server that is down must not fail the lines that wait for it."""
        if failure is Failure.UNREACHABLE:
            return self
        if failure is Failure.THROTTLED:
            return Spent(self.attempts, self.throttled + 1)
        return Spent(self.attempts + 1, self.throttled)

    @property
    def total(self) -> int:
        return self.attempts + self.throttled


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, within budgets.

    Source of the jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Attributes:
        max_attempts: Failures after which a line fails.
        max_throttled: 429 answers after which a line fails: they speak of the server, not of the line.
        base: Seconds that the first wait is at most.
        cap: Seconds that any wait is at most.
    """

    max_attempts: int
    max_throttled: int
    base: float
    cap: float

    def is_spent(self, spent: Spent) -> bool:
        return spent.attempts >= self.max_attempts or spent.throttled >= self.max_throttled

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
