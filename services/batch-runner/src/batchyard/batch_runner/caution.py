"""Finding out a shard that takes its runners with it, and the line in it that does so.

A runner notes that it begins. A shard that has been begun again and again while nothing more of it became durable is
run line by line, each named before it is sent.
"""

import asyncio
from contextlib import suppress

from batchyard.batch_runner.attempt import Attempts
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.run import ShardRun
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger

_STARTS_BEFORE_CAUTION = 3
_STARTS_BEFORE_GIVING_UP = 12
_CAUGHT_BEFORE_GIVING_UP = 3
_log = get_logger(__name__)


class Caution:
    """Executes runs of shards, with the caution that earlier runs of them call for."""

    def __init__(self, store: BatchStore, attempts: Attempts) -> None:
        self._store = store
        self._attempts = attempts
        self._one_suspect = asyncio.Lock()

    async def before(self, record: BatchRecord, run: ShardRun) -> ShardProgress:
        """What earlier runs of the shard came to: those that made something durable speak for it."""
        before = await self._store.progress(record, run.shard) or ShardProgress()
        if run.progress.results > before.results:
            return run.progress
        return run.progress.model_copy(
            update={"starts": before.starts, "suspect": before.suspect, "caught": before.caught}
        )

    async def execute(self, record: BatchRecord, run: ShardRun, pool: Pool, before: ShardProgress) -> None:
        """Send the lines of a shard, as is wise after what came `before`."""
        if before.starts < _STARTS_BEFORE_CAUTION:
            await self._begin(record, run.shard, before)
            await run.execute(self._attempts, pool)
        else:
            async with self._one_suspect:
                await self._begin(record, run.shard, before)
                await self._execute_singly(record, run, pool, before)

    async def end_unharmed(self, record: BatchRecord, shard: int, before: ShardProgress) -> None:
        """This runner leaves the shard alive: its start does not speak against the shard."""

        def forgiven(told: ShardProgress) -> ShardProgress:
            if told.starts == 0:  # something has become durable since
                return told
            return told.model_copy(update={"starts": before.starts, "suspect": before.suspect, "caught": before.caught})

        with suppress(ServiceUnavailable):
            await self._store.amend_progress(record, shard, forgiven)

    async def _begin(self, record: BatchRecord, shard: int, before: ShardProgress) -> None:
        """Note that a runner has begun on the shard: if it is lost, the next one sees that it was not the first."""
        await self._store.report_progress(record, shard, before.model_copy(update={"starts": before.starts + 1}))

    async def _execute_singly(self, record: BatchRecord, run: ShardRun, pool: Pool, before: ShardProgress) -> None:
        """Runners were lost over this shard, or beside it: run its lines one by one, and no other suspected shard
        meanwhile, until the line is found that does it."""
        shard = run.shard
        _log.warning("shard.suspected", batch=record.raw_id, shard=shard, starts=before.starts, line=before.suspect)
        if before.caught >= _CAUGHT_BEFORE_GIVING_UP:
            await run.give_up(before.suspect, before.caught)
        elif before.starts >= _STARTS_BEFORE_GIVING_UP:
            await run.give_up(None, before.starts)

        async def note(progress: ShardProgress, line: int) -> None:
            caught = before.caught + 1 if line == before.suspect else 1
            told = progress.model_copy(update={"starts": before.starts + 1, "suspect": line, "caught": caught})
            await self._store.report_progress(record, shard, told)

        await run.execute_singly(self._attempts, pool, note)
