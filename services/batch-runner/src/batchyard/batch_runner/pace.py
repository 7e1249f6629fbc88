"""Whether a batch will end in time at the rate at which it gets on."""

from collections import deque

from batchyard.common.bounded import remember

_SECONDS_SEEN = 30.0
_RESERVE = 5.0
_CONFIDENCE = 0.8
_LAST_SECONDS = 60.0
_REMEMBERED = 1_000


class Pace:
    """How fast a batch's lines got their results of late.

    All times are seconds of one clock; what is noted need not be exact, since other runners work on the batch as well
    and their shards are counted when they end.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, remaining: int) -> None:
        """So many lines have no result yet."""
        if self._seen:
            remaining = min(remaining, self._seen[-1][1])  # a shard that is handed in but not counted yet looks undone
        self._seen.append((now, remaining))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _SECONDS_SEEN:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Lines a second; 0 when none has been seen to end."""
        if len(self._seen) < 2:
            return 0.0
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (before - after) / (last - first) if last > first else 0.0

    def is_late(self, now: float, deadline: float) -> bool:
        """Whether the batch needs more than its share of the servers: at its rate it would take more than four fifths
        of the time that is left. One that has not been seen to get on is late in its last minute."""
        if not self._seen:
            return False
        left = deadline - now
        rate = self.rate
        if rate <= 0:
            return left < _LAST_SECONDS
        return self._seen[-1][1] > rate * (left - _RESERVE) * _CONFIDENCE


class Paces:
    """The paces of the batches that were looked at of late."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def of(self, batch: str) -> Pace:
        """A batch's pace; those that have not been asked for the longest are forgotten."""
        pace = self._paces.pop(batch, None) or Pace()
        remember(self._paces, batch, pace, _REMEMBERED)
        return pace
