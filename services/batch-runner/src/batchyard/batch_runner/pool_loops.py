"""A work loop for each pool, begun and ended as the configuration has it."""

import asyncio
from collections.abc import Iterable

from nats.errors import Error
from nats.js import JetStreamContext

from batchyard.batch_runner.queue import Handler, WorkLoop
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.logs import get_logger
from batchyard.common.messaging.topology import work_consumer

_TROUBLE_SECONDS = 1.0
_log = get_logger(__name__)


class PoolLoops:
    """Takes the shards of the pools that it was last told to serve."""

    def __init__(self, js: JetStreamContext, settings: RunnerSettings, handler: Handler) -> None:
        self._js = js
        self._settings = settings
        self._handler = handler
        self._wanted: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._stops: dict[str, asyncio.Event] = {}

    @property
    def pools(self) -> list[str]:
        """The pools to serve."""
        return sorted(self._wanted)

    def serve(self, pools: Iterable[str]) -> None:
        """Take the shards of these pools, and of no others; what is being worked on is finished."""
        self._wanted = frozenset(pools)
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then wait for the jobs that are under way."""
        async with asyncio.TaskGroup() as loops:
            stopping = loops.create_task(self._stop_all(stop))
            while not stopping.done():
                self._changed.clear()
                for pool in self._stops.keys() - self._wanted:
                    self._stops.pop(pool).set()
                for pool in self._wanted - self._stops.keys():
                    self._stops[pool] = asyncio.Event()
                    loops.create_task(self._work(pool, self._stops[pool]))
                await self._changed.wait()

    async def _stop_all(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wanted = frozenset()
        for one in self._stops.values():
            one.set()
        self._changed.set()

    async def _work(self, pool: str, stop: asyncio.Event) -> None:
        loop = WorkLoop(self._js, work_consumer(pool, self._settings), self._settings.shards_per_pool, self._handler)
        while not stop.is_set():
            try:
                await loop.declare()
            except (Error, OSError) as error:
                _log.warning("queue.not_declared", pool=pool, error=repr(error))
                await _unless(stop, _TROUBLE_SECONDS)
            else:
                await loop.run(stop)


async def _unless(stop: asyncio.Event, seconds: float) -> None:
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait({waiter}, timeout=seconds)
    waiter.cancel()
