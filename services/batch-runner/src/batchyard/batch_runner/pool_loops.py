"""A work loop for each pool, begun and ended as the configuration has it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from nats.errors import Error
from nats.js import JetStreamContext

from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.logs import get_logger
from batchyard.common.messaging.topology import Consumer, native_consumer, work_consumer
from batchyard.common.messaging.work_loop import Handler, WorkLoop
from batchyard.common.tasks import unless

_TROUBLE_SECONDS = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Queue:
    """What waits for a pool: its shards, or the whole batches that its servers run."""

    pool: str
    is_native: bool

    def consumer(self, settings: RunnerSettings) -> Consumer:
        return (native_consumer if self.is_native else work_consumer)(self.pool, settings)

    def slots(self, settings: RunnerSettings) -> int:
        return settings.native_batches_per_pool if self.is_native else settings.shards_per_pool

    def eager(self, settings: RunnerSettings) -> int | None:
        return None if self.is_native else settings.shards_per_batch


class PoolLoops:
    """Takes the shards of the pools that it was last told to serve."""

    def __init__(self, js: JetStreamContext, settings: RunnerSettings, handler: Handler) -> None:
        self._js = js
        self._settings = settings
        self._handler = handler
        self._wanted: frozenset[_Queue] = frozenset()
        self._changed = asyncio.Event()
        self._stops: dict[_Queue, asyncio.Event] = {}

    @property
    def pools(self) -> list[str]:
        """The pools to serve."""
        return sorted({queue.pool for queue in self._wanted})

    def serve(self, pools: Iterable[str], native_pools: Iterable[str]) -> None:
        """Take the shards of `pools` and the whole batches of `native_pools`, and no others; what is being worked on is
        finished."""
        shards = {_Queue(pool, is_native=False) for pool in pools}
        self._wanted = frozenset(shards | {_Queue(pool, is_native=True) for pool in native_pools})
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then wait for the jobs that are under way."""
        async with asyncio.TaskGroup() as loops:
            stopping = loops.create_task(self._stop_all(stop))
            while not stopping.done():
                self._changed.clear()
                for queue in self._stops.keys() - self._wanted:
                    self._stops.pop(queue).set()
                for queue in self._wanted - self._stops.keys():
                    self._stops[queue] = asyncio.Event()
                    loops.create_task(self._work(queue, self._stops[queue]))
                await self._changed.wait()

    async def _stop_all(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wanted = frozenset()
        for one in self._stops.values():
            one.set()
        self._changed.set()

    async def _work(self, queue: _Queue, stop: asyncio.Event) -> None:
        settings = self._settings
        loop = WorkLoop(self._js, queue.consumer(settings), queue.slots(settings), self._handler, queue.eager(settings))
        while not stop.is_set():
            try:
                await loop.declare()
            except (Error, OSError) as error:
                _log.warning("queue.not_declared", pool=queue.pool, error=repr(error))
                await unless(stop, asyncio.sleep(_TROUBLE_SECONDS))
            else:
                await loop.run(stop)
