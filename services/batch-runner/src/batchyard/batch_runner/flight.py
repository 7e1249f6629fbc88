"""The attempts under way on one deployment: counted, paid for, and taken back for somebody else's sake."""

import asyncio
from collections import Counter
from types import TracebackType
from typing import Self

from batchyard.batch_runner.allowance import Allowance
from batchyard.batch_runner.durations import Durations
from batchyard.batch_runner.lines import Tokens
from batchyard.batch_runner.retry import Failure
from batchyard.batch_runner.steering import Traffic
from batchyard.common.clock import Clock


class Flights:
    """What this process has on one deployment, the oldest first.

    Attributes:
        failures: Attempts that brought nothing, by kind.
        answer_times: What the answers took, each.
        others: Requests of anybody else that were on the server when it was last looked at.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.traffic = Traffic()
        self.failures: Counter[Failure] = Counter()
        self.answer_times = Durations()
        self.under_way: dict[Flight, None] = {}
        self.others = 0.0
        self._share = 0.0
        self._share_at = 0.0
        self._most = 0

    def share_at(self, now: float) -> float:
        """The seconds that one request would have had of the server by `now`, had it always been one of those there.

        It grows by 1/n seconds a second while n requests are there, so that the shares of all who are there at a time
        add up to that time, and never to more.
        """
        if self.under_way:
            self._share += max(0.0, now - self._share_at) / (len(self.under_way) + self.others)
        self._share_at = now
        return self._share

    def sees_others(self, others: float, now: float) -> None:
        """Share the server with so many requests of others from `now` on."""
        self.share_at(now)
        self.others = others

    def begin(self, flight: "Flight") -> None:
        self.under_way[flight] = None
        self._most = max(self._most, len(self.under_way))
        self.traffic.requests += 1

    def take_most(self) -> int:
        """As many as have been under way at once since this was last asked."""
        most, self._most = self._most, len(self.under_way)
        return most

    def recall_youngest(self, count: int) -> None:
        """Take back as many, beginning with the one that has cost the least so far."""
        for flight in list(reversed(self.under_way))[:count]:
            flight.recall()


class Flight:
    """The time that a request spends on a deployment, as a context.

    Attributes:
        is_recalled: Whether it was taken back. Its context is then left without an error, and its line goes on as if
            nothing had been sent.
        busy: Once it is over, its share of the deployment's time, in seconds.
    """

    __slots__ = (
        *("_began", "_cancelling", "_clock", "_expected", "_flights", "_share", "_task", "_tokens"),
        *("busy", "is_recalled"),
    )

    def __init__(self, flights: Flights, clock: Clock) -> None:
        self._flights = flights
        self._clock = clock
        self._tokens: int | None = None
        self.is_recalled = False
        self.busy = 0.0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "used outside a task"
        self._task = task
        self._cancelling = task.cancelling()
        self._began = self._clock.monotonic()
        self._expected = self._flights.allowance.expected
        self._share = self._flights.share_at(self._began)
        self._flights.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        now = self._clock.monotonic()
        self.busy = self._flights.share_at(now) - self._share
        del self._flights.under_way[self]
        self._flights.allowance.end(self._expected, self._tokens, now)
        if not self.is_recalled:
            return False
        # As asyncio.timeout does it: a cancellation that somebody else wants as well goes on.
        is_ours = self._task.uncancel() <= self._cancelling
        if not is_ours or kind is None or not issubclass(kind, asyncio.CancelledError):
            return False
        traffic = self._flights.traffic
        traffic.taken_back += 1
        traffic.seconds_lost += now - self._began
        return True

    def recall(self) -> None:
        """End the request, if nobody has done so yet."""
        if not self.is_recalled:
            self.is_recalled = True
            self._task.cancel()

    def ended(self, tokens: Tokens, *, is_refused: bool) -> None:
        """It has brought its line a result. One that the server refused says nothing about how fast the server is."""
        self._tokens = tokens.prompt + tokens.output
        traffic = self._flights.traffic
        if is_refused:
            traffic.refused += 1
            return
        traffic.answered += 1
        traffic.tokens += tokens.output
        took = self._clock.monotonic() - self._began
        traffic.seconds += took
        self._flights.answer_times.note(took)

    def failed(self, *, throttled: bool, timed_out: bool) -> None:
        """It has brought none."""
        traffic = self._flights.traffic
        traffic.failed += 1
        traffic.throttled += throttled
        traffic.timed_out += timed_out
