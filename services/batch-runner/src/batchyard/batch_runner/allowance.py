"""What a deployment may be sent in a minute: `rpm` and `tpm` of its entry, as token buckets.

Source: https://en.wikipedia.org/wiki/Token_bucket
"""

_MINUTE = 60.0
_FIRST_GUESS = 1000.0  # tokens that a request costs, until one has told
_NEWEST = 0.1  # what the newest answer counts in the mean


class Bucket:
    """So much in a minute, at most a second's share of it at once. It may be overdrawn, and is closed then."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._rate = per_minute / _MINUTE
        self._size = max(1.0, self._rate)
        self._level = self._size
        self._at = now

    def become(self, per_minute: float, now: float) -> None:
        """Another rate from now on. What is overdrawn remains so."""
        level = self._level_at(now)
        self._rate = per_minute / _MINUTE
        self._size = max(1.0, self._rate)
        self._level, self._at = min(level, self._size), now

    def spend(self, amount: float, now: float) -> None:
        """Take out `amount`; a negative one is given back."""
        self._level = self._level_at(now) - amount
        self._at = now

    def closed_for(self, now: float, least: float = 1.0) -> float:
        """Seconds until `least` is in it; 0 if it is."""
        return max(0.0, (min(least, self._size) - self._level_at(now)) / self._rate)

    def _level_at(self, now: float) -> float:
        return min(self._size, self._level + (now - self._at) * self._rate)


class Allowance:
    """The requests and tokens that a deployment may have.

    What a request costs is known when its answer is there. Until then it is taken to cost what others did.
    """

    def __init__(self, rpm: float | None, tpm: float | None, now: float) -> None:
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._mean = _FIRST_GUESS
        self.become(rpm, tpm, now)

    def become(self, rpm: float | None, tpm: float | None, now: float) -> None:
        """Other limits from now on; what was sent under those before counts."""
        self._requests = _bucket(self._requests, rpm, now)
        self._tokens = _bucket(self._tokens, tpm, now)

    @property
    def is_unlimited(self) -> bool:
        return self._requests is None and self._tokens is None

    def closed_for(self, now: float) -> float:
        """Seconds until the next request may be sent; 0 for now."""
        waits = [bucket.closed_for(now) for bucket in (self._requests, self._tokens) if bucket is not None]
        return max(waits, default=0.0)

    @property
    def expected(self) -> float:
        """Tokens that a request is taken to cost."""
        return 0.0 if self._tokens is None else self._mean

    def take(self, now: float) -> None:
        """A request is about to be sent."""
        if self._requests is not None:
            self._requests.spend(1.0, now)
        if self._tokens is not None:
            self._tokens.spend(self._mean, now)

    def end(self, expected: float, tokens: int | None, now: float) -> None:
        """A request has cost `tokens`; None if that is unknown, as for one that was never answered."""
        if self._tokens is None:
            return
        if tokens is None:
            self._tokens.spend(-expected, now)
            return
        self._tokens.spend(tokens - expected, now)
        self._mean += _NEWEST * (tokens - self._mean)


def _bucket(before: Bucket | None, per_minute: float | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if before is None:
        return Bucket(per_minute, now)
    before.become(per_minute, now)
    return before
