"""The results of one run of a shard, from a line's answer to the shard's parts.

What was answered is in memory alone for about a second, then durable in a segment, of which a later run takes it over.
The parts are merged from segments, and from what is still in memory. Memory is bounded: while the store does not keep
up there is no room for more.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.segments import (
    ERROR_KINDS,
    OUTPUT_KINDS,
    Result,
    compacted,
    encode_result,
    merged,
    read_segment,
    texts,
)
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.batch_runner.tally import ShardProgress, Tally
from batchyard.common.crash import crash_point
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStore, ObjectStoreUnavailable

_log = get_logger(__name__)


class Journal:
    """Gathers results, each line's first one, and makes them durable.

    Args:
        on_checkpoint: Told what is durable, after every segment.
        memory_bytes: Says how much of the results may be kept in memory.

    Attributes:
        tally: What has been gathered.
        room: Set while there is memory for more results.
    """

    def __init__(
        self,
        shard: ShardInput,
        store: ObjectStore,
        settings: RunnerSettings,
        on_checkpoint: Callable[[ShardProgress], Awaitable[None]],
        memory_bytes: Callable[[], int],
    ) -> None:
        self._shard = shard
        self._store = store
        self._settings = settings
        self._on_checkpoint = on_checkpoint
        self._memory_bytes = memory_bytes
        self.tally = Tally()
        self.room = asyncio.Event()
        self.room.set()
        self._stored: list[str] = []  # segments whose results are not in memory
        self._kept: list[Result] = []  # results in segments that are in memory too
        self._kept_segments: list[str] = []
        self._kept_bytes = 0
        self._fresh: list[Result] = []  # results in no segment yet
        self._fresh_bytes = 0
        self._full = asyncio.Event()

    async def recover(self) -> None:
        """Take over the results that earlier runs of the shard made durable."""
        async for info in self._store.list(f"{self._shard.prefix}segment-"):
            async for result in read_segment(self._store, info.key):
                self.tally.add(result)
            self._stored.append(info.key)

    def add(self, result: Result, model: str) -> None:
        """Gather the result of a line that names this model."""
        if self._shard.model is None:
            result = msgspec.structs.replace(result, model=model)
        self.tally.add(result)
        self._fresh.append(result)
        self._fresh_bytes += len(result.text)
        memory = self._memory_bytes()
        if self._fresh_bytes >= min(self._settings.flush_bytes, memory):
            self._full.set()
        if self._fresh_bytes >= memory:
            self.room.clear()  # the store does not keep up: nothing more is sent until it does

    async def flush_regularly(self) -> None:
        """Make what was gathered durable about every second, and sooner when there is much of it; never ends."""
        while True:
            try:
                async with asyncio.timeout(self._settings.flush_interval):
                    await self._full.wait()
            except TimeoutError:
                pass
            try:
                await self.checkpoint()
            except ObjectStoreUnavailable as error:
                # What was answered is kept until the store is back: nothing is sent again because of it.
                _log.warning("checkpoint.postponed", batch=self._shard.batch_hex, reason=str(error))
                await asyncio.sleep(self._settings.flush_interval)

    async def checkpoint(self) -> None:
        """Make every result so far durable."""
        if not self._fresh:
            return
        results, size, progress = self._fresh, self._fresh_bytes, self.tally.progress()
        self._fresh, self._fresh_bytes = [], 0
        self._full.clear()
        self.room.set()
        results.sort(key=lambda result: result.line)
        number = len(self._stored) + len(self._kept_segments)
        key = f"{self._shard.prefix}segment-{self._shard.attempt}-{number:06d}"
        try:
            await self._store.put(key, _encoded(results))
        except BaseException:
            self._fresh += results
            self._fresh_bytes += size
            raise
        crash_point("segment.stored")
        self._keep(key, results, size)
        try:
            await self._on_checkpoint(progress)
        except ServiceUnavailable as error:
            _log.warning("progress.not_told", batch=self._shard.batch_hex, reason=str(error))

    async def write_parts(self) -> ShardOutcome:
        """Write the output and the error part, in input order, and say what the shard came to."""
        shard = self._shard
        self._stored = await compacted(self._store, self._stored, f"{shard.prefix}segment-{shard.attempt}-merged")
        memory = sorted((*self._kept, *self._fresh), key=lambda result: result.line)
        tally = self.tally
        output_key = error_key = None
        if tally.completed:
            output_key = f"{shard.prefix}output-{shard.attempt}"
            await self._store.put(output_key, texts(merged(self._store, self._stored, memory), OUTPUT_KINDS))
        if tally.failed or tally.not_run:
            error_key = f"{shard.prefix}error-{shard.attempt}"
            await self._store.put(error_key, texts(merged(self._store, self._stored, memory), ERROR_KINDS))
        crash_point("parts.written")
        return ShardOutcome(
            shard=shard.shard,
            completed=tally.completed,
            failed=tally.failed,
            not_run=tally.not_run,
            usage_by_deployment=tally.usage_by_deployment(),
            work=tally.work(),
            output_key=output_key,
            error_key=error_key,
        )

    def _keep(self, key: str, results: list[Result], size: int) -> None:
        """Keep results in memory as long as they are few: then the parts need no reading back."""
        self._kept += results
        self._kept_segments.append(key)
        self._kept_bytes += size
        if self._kept_bytes > self._memory_bytes():
            self._stored += self._kept_segments
            self._kept, self._kept_segments, self._kept_bytes = [], [], 0


async def _encoded(results: list[Result]) -> AsyncIterator[bytes]:
    for result in results:
        yield encode_result(result)
