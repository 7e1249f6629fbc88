"""What was asked of the simulator, and what became of it: a bounded log and its totals."""

import time
from collections import Counter, deque
from itertools import islice

from batchyard.vllm_sim.changes import Changes

PENDING = "pending"
ANSWERED = "answered"
REJECTED = "rejected"
UNHEALTHY = "unhealthy"
DISCONNECTED = "disconnected"

_REQUEST_ID_CHARACTERS = 256


class Record:
    """One inference request, written on arrival and completed when it ends.

    Attributes:
        sequence: its number in the order of arrival, from 1, never used twice.
        time: seconds since the epoch.
        request_id: its X-Request-Id, cut after 256 characters so that the log stays bounded.
        digest: see `batchyard.vllm_sim.prompts.prompt_digest`; None while or if the body could not be read.
        status: the HTTP status; None if nothing whole was answered.
        outcome: "pending", "answered", "rejected" (a 4xx that vLLM would give), "unhealthy", "disconnected" (the
            client went away), or "fault:" and the fault's kind.
    """

    __slots__ = ("digest", "model", "outcome", "request_id", "route", "sequence", "status", "time")

    def __init__(self, sequence: int, route: str, request_id: str | None) -> None:
        self.sequence = sequence
        self.time = time.time()
        self.route = route
        self.request_id = request_id and request_id[:_REQUEST_ID_CHARACTERS]
        self.model: str | None = None
        self.digest: str | None = None
        self.status: int | None = None
        self.outcome = PENDING

    def as_dict(self) -> dict[str, object]:
        """Return the record as /sim/log shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class RequestLog:
    """The last `size` requests, and totals of all since the last reset."""

    def __init__(self, size: int, changes: Changes) -> None:
        self._records: deque[Record] = deque(maxlen=size)
        self._changes = changes
        self._last = 0
        self._reset_at = 0
        self.by_status: Counter[int] = Counter()
        self.by_route: Counter[str] = Counter()
        self.by_outcome: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many requests have arrived since the last reset."""
        return self._last - self._reset_at

    def begin(self, route: str, request_id: str | None) -> Record:
        """Write down a request that has arrived."""
        self._last += 1
        record = Record(self._last, route, request_id)
        self._records.append(record)
        self.by_route[route] += 1
        self._changes.notify()
        return record

    def finish(self, record: Record, outcome: str, status: int | None) -> None:
        """Complete a request's record; one that arrived before the last reset no longer counts."""
        record.outcome = outcome
        record.status = status
        if record.sequence > self._reset_at:
            self.by_outcome[outcome] += 1
            if status is not None:
                self.by_status[status] += 1
        self._changes.notify()

    def records(self, after: int = 0, limit: int | None = None) -> list[Record]:
        """Return the kept records with a sequence above `after`, oldest first, `limit` at most."""
        oldest = self._last - len(self._records)
        start = max(0, after - oldest)
        return list(islice(self._records, start, None if limit is None else start + limit))

    def clear(self) -> None:
        """Forget records and totals; sequences go on."""
        self._records.clear()
        self._reset_at = self._last
        for totals in (self.by_status, self.by_route, self.by_outcome):
            totals.clear()
