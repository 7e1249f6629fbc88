"""Admission: at most so many requests run, the others wait their turn."""

import asyncio
import heapq
from itertools import count

from batchyard.vllm_sim.changes import Changes


class Capacity:
    """The slots of one engine, as `--max-num-seqs` of vLLM; one request takes one slot, whatever its `n`.

    Args:
        slots: how many requests run at once.
        by_priority: a lower `priority` goes first, equal ones in their order; otherwise first come, first served.
        changes: told whenever a request starts, waits or ends.
    """

    def __init__(self, slots: int, *, by_priority: bool, changes: Changes) -> None:
        self._slots = slots
        self._by_priority = by_priority
        self._changes = changes
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._turns = count()
        self.running = 0
        self.waiting = 0
        self.max_running = 0
        self.max_in_flight = 0

    @property
    def slots(self) -> int:
        """How many requests can run at once."""
        return self._slots

    async def acquire(self, priority: int = 0) -> None:
        """Take a slot, waiting for one if need be. Whoever is cancelled while waiting holds none."""
        if self.running < self._slots:
            self.running += 1
            self._mark()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (priority if self._by_priority else 0, next(self._turns), turn))
        self.waiting += 1
        self._mark()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave_queue()
            else:
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back: to the next in line, who then has it already, or to all."""
        while self._queue:
            _, _, turn = heapq.heappop(self._queue)
            if not turn.done():
                self.waiting -= 1
                turn.set_result(None)
                self._changes.notify()
                return
        self.running -= 1
        self._changes.notify()

    def forget_peaks(self) -> None:
        """Begin the maxima anew from what is in flight now."""
        self.max_running = self.running
        self.max_in_flight = self.running + self.waiting

    def _leave_queue(self) -> None:
        self.waiting -= 1
        # The dead are skipped when their turn comes; swept here so that a queue nobody serves stays bounded.
        if len(self._queue) > 2 * self.waiting + 16:
            self._queue = [entry for entry in self._queue if not entry[2].done()]
            heapq.heapify(self._queue)
        self._changes.notify()

    def _mark(self) -> None:
        if self.running > self.max_running:
            self.max_running = self.running
        if self.running + self.waiting > self.max_in_flight:
            self.max_in_flight = self.running + self.waiting
        self._changes.notify()
