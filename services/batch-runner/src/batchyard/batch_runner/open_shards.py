"""The shards that a process works on at once: a few of each batch, and what they may hold in memory together."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.tasks import end


@dataclass(slots=True)
class _Door:
    """Lets in a few shards of a batch, in the order in which they came."""

    places: asyncio.Semaphore
    users: int = field(default=0)


class OpenShards:
    """Shards that have been taken from the queue wait here until they are read and sent.

    A runner takes more of them than it works on, so that many batches are at work at a time; one that waits costs next
    to nothing.

    Attributes:
        working: How many are read and sent, by pool.
    """

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._doors: dict[tuple[str, str], _Door] = {}
        self.working: Counter[str] = Counter()

    def memory_bytes(self) -> int:
        """What one shard may keep of its results, as many as there are now."""
        return min(
            self._settings.shard_memory_bytes, self._settings.results_memory_bytes // max(1, self.working.total())
        )

    @asynccontextmanager
    async def entered(self, batch: str, pool: str, stopped: asyncio.Future[None]) -> AsyncIterator[None]:
        """The time of a shard's run, from when its batch has few enough others here, or from when it is stopped."""
        door = self._doors.setdefault((batch, pool), _Door(asyncio.Semaphore(self._settings.shards_per_batch)))
        door.users += 1
        entering = asyncio.create_task(door.places.acquire())
        has_entered = False
        try:
            until: set[asyncio.Future[Any]] = {entering, stopped}
            await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
            await end((entering,))
            has_entered = not entering.cancelled()
            self.working[pool] += has_entered
            yield
        finally:
            await end((entering,))
            self.working[pool] -= has_entered
            if not entering.cancelled():
                door.places.release()
            door.users -= 1
            if not door.users:
                del self._doors[batch, pool]
