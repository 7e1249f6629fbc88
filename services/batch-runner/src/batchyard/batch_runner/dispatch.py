"""The step of a batch that is in progress: count what its shards came to, and queue more of them."""

from collections.abc import Sequence

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch import BatchRecord, Ending
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import fair_window, next_shards
from batchyard.batch_runner.standings import Standings
from batchyard.batch_runner.step import Again, Verdict, change, count, new_uuid
from batchyard.batch_runner.transitions import IllegalTransition
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.crash import crash_point
from batchyard.common.messaging.work_loop import Done


class Dispatch:
    """Keeps the shards of batches queued, until they are settled or their time is over."""

    def __init__(
        self, store: BatchStore, fleet: Fleet, standings: Standings, settings: RunnerSettings, clock: Clock
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._standings = standings
        self._settings = settings
        self._clock = clock

    async def take(self, record: BatchRecord) -> Verdict:
        """Queue more of a batch, or begin its end."""
        counted = await count(self._store, record, self._now())
        if counted is None or counted.status is not BatchStatus.IN_PROGRESS:
            return Again()
        if counted.settled_count == counted.shards:
            # Runners know the deadline too, and may have handed in everything before anybody took this step.
            ending: Ending = BatchStatus.COMPLETED if counted.is_answered else BatchStatus.EXPIRED
            return await self._begin_ending(counted, ending)
        if self._now() >= record.expires_at:
            return await self._begin_ending(counted, BatchStatus.EXPIRED)
        return await self._dispatch(counted)

    async def _begin_ending(self, record: BatchRecord, ending: Ending) -> Verdict:
        verdict = await change(
            self._store,
            record,
            lambda current: transitions.finalizing(current, self._now(), ending, new_uuid(), new_uuid()),
        )
        crash_point("batch.finalizing")
        if ending is BatchStatus.EXPIRED:
            await self._store.broadcast(record)
        return verdict

    async def _dispatch(self, record: BatchRecord) -> Verdict:
        """Fill the window. The record says first what is queued, so that no shard runs that it does not know of;
        what a crash kept from the queue is queued again by the next step: queueing twice is refused by the server."""
        outstanding = list(record.outstanding())
        more = await self._more_shards(record, outstanding)
        if more:
            try:
                changed = await self._store.change(record, lambda current: transitions.dispatched(current, more))
            except IllegalTransition:
                return Again()
            if changed is None:
                return Done()
            outstanding = list(changed.outstanding())
            crash_point("shards.marked")
        for shard in outstanding:
            await self._store.queue_shard(record, shard)
            crash_point("shard.queued")
        return Done()

    async def _more_shards(self, record: BatchRecord, outstanding: list[int]) -> Sequence[int]:
        def window(pool_name: str | None) -> int:
            pool = self._fleet.pools.get(pool_name or "")
            batches = len(pool.batches | {record.raw_id}) if pool is not None else 1
            return fair_window(self._settings.shard_window, self._settings.shards_per_pool, batches)

        if record.pool is not None:
            more = min(window(record.pool) - len(outstanding), self._standings.may_queue(record))
            return range(record.dispatched, min(record.shards, record.dispatched + more))
        return next_shards(await self._store.table(record), record.unqueued(), outstanding, window)

    def _now(self) -> int:
        return int(self._clock.now())
