"""The runner's hands: takes shards from the queues of its pools, runs them, hands them in."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from batchyard.batch_runner.attempt import Attempts
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.caution import Caution
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.native.run import NativeRun
from batchyard.batch_runner.native.servers import NativeServers
from batchyard.batch_runner.open_shards import OpenShards
from batchyard.batch_runner.pace import Paces
from batchyard.batch_runner.pauses import Pauses
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.run import ShardRun
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard_input import shard_input
from batchyard.batch_runner.stop import Stop, stop_reason
from batchyard.batch_runner.tally import ShardProgress
from batchyard.batch_runner.tasks import decode_shard
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.crash import crash_point
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.work_loop import Done, Later
from batchyard.common.objects import ObjectStoreUnavailable

T = TypeVar("T")

_LOOK_SECONDS = 3.0
_UNCONFIGURED_SECONDS = 1.0
_log = get_logger(__name__)


class Worker:
    """Runs the shards of this process' pools."""

    def __init__(
        self,
        store: BatchStore,
        fleet: Fleet,
        natives: NativeServers,
        attempts: Attempts,
        pauses: Pauses,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._pauses = pauses
        self._store = store
        self._fleet = fleet
        self._natives = natives
        self._settings = settings
        self._clock = clock
        self._running: dict[str, set[ShardRun | NativeRun]] = {}
        self._at_work: set[tuple[str, int]] = set()
        self._records: dict[str, BatchRecord] = {}
        self._paces = Paces()
        self.open_shards = OpenShards(settings)
        self._caution = Caution(store, attempts)
        self._shutting_down = False

    async def handle(self, data: bytes) -> Done | Later:
        """Run one shard from the queue."""
        task = decode_shard(data)
        record = await self._store.get(task.tenant, task.batch)
        if record is None or record.status.is_terminal:
            return Done()
        if await self._is_handed_in(record, task.shard):
            # Its step may have been lost with the runner that handed it in.
            await self._store.queue_step(record.tenant, record.raw_id)
            return Done()
        if (task.batch, task.shard) in self._at_work:
            # NATS was away for longer than it waits for a sign of life: the run under way settles the message.
            return Later(self._settings.work_ack_wait)
        self._at_work.add((task.batch, task.shard))
        try:
            return await self._run(record, task.shard)
        finally:
            self._at_work.discard((task.batch, task.shard))

    async def look_again(self, tenant: str, raw_id: str) -> None:
        """The batch's status, or what another runner has handed in, may say that its shards are to be left."""
        if raw_id not in self._running:
            return
        record = await self._store.get(tenant, raw_id)
        for run in tuple(self._running.get(raw_id, ())):
            if record is None or record.status.is_terminal or await self._is_handed_in(record, run.shard):
                run.stop(Stop.SUPERSEDED)
            elif record.status is not BatchStatus.IN_PROGRESS:
                run.stop(stop_reason(record))
        if record is not None:
            self._judge_pace(record)

    def _judge_pace(self, record: BatchRecord) -> None:
        """Let the batch go ahead of others if it would not end in time otherwise."""
        runs = [run for run in self._running.get(record.raw_id, ()) if isinstance(run, ShardRun)]
        answered = sum(run.answered for run in runs if not record.is_settled(run.shard))
        pace, now = self._paces.of(record.raw_id), self._clock.now()
        pace.note(now, record.lines - record.completed - record.failed - answered)
        is_late = pace.is_late(now, record.expires_at)
        for run in runs:
            if run.hurry(is_late):
                _log.info("batch.late" if is_late else "batch.in_time", batch=record.raw_id, pool=run.pool)

    async def watch(self, stop: asyncio.Event) -> None:
        """Look at the batches that are run here again and again: a word that was not heard is made up for."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)
            for raw_id, record in list(self._records.items()):
                with suppress(ServiceUnavailable):
                    await self.look_again(record.tenant, raw_id)
                    await self._tell_waiting(record)

    async def _tell_waiting(self, record: BatchRecord) -> None:
        """Say of the shards that are run here that they wait for a server, and when they no longer do."""
        for run in tuple(self._running.get(record.raw_id, ())):
            if isinstance(run, NativeRun):
                continue  # it knows better, and says so itself
            pool = self._fleet.pools.get(run.pool)
            if pool is None:
                continue  # the shard is on its way back to the queue
            waits_for = run.model_names if pool.is_down else None
            if run.waits_for != waits_for:
                change = {"waits_for": waits_for}
                await self._store.amend_progress(record, run.shard, partial(ShardProgress.model_copy, update=change))
                run.waits_for = waits_for

    def withdraw(self) -> None:
        """Give back the shards of pools that are no longer configured, once what is in flight has ended."""
        for runs in self._running.values():
            for run in runs:
                # Who follows a batch that its server runs whole has what is in flight there.
                if isinstance(run, ShardRun) and run.pool not in self._fleet.pools:
                    run.stop(Stop.WITHDRAWN)

    def shut_down(self) -> None:
        """Leave every shard to other runners, with what it has got so far."""
        self._shutting_down = True
        for runs in self._running.values():
            for run in runs:
                run.stop(Stop.SHUTDOWN)

    async def _run(self, record: BatchRecord, shard: int) -> Done | Later:
        shard_to_run = shard_input(record, await self._store.table(record), shard)
        pool = self._fleet.pools.get(shard_to_run.pool)
        if pool is None:
            return Later(_UNCONFIGURED_SECONDS)

        async def report(progress: ShardProgress) -> None:
            # A checkpoint of the last answers before an outage does not take back that the rest waits.
            told = progress.model_copy(update={"waits_for": run.waits_for})
            await self._store.report_progress(record, shard, told)

        run: ShardRun | NativeRun
        try:
            with pool.claimed(record.tenant, record.raw_id) as claim:
                pause = self._pauses.of(record.tenant, record.key_id)
                if record.native is None:
                    memory = self.open_shards.memory_bytes
                    run = ShardRun(shard_to_run, self._store.objects, self._settings, report, claim, memory, pause)
                else:
                    run = self._natives.run(record, shard_to_run, report, pause)
                with self._registered(record, run), self._deadline(record, run):
                    if isinstance(run, NativeRun):
                        return await self._run_natively(record, run)
                    if pool.is_retired:
                        run.stop(Stop.WITHDRAWN)
                    return await self._run_registered(record, run, pool)
        finally:
            # Who was paused for long may have written objects after the batch had ended and been swept.
            await self._store.tidy_up(record)

    async def _run_registered(self, record: BatchRecord, run: ShardRun, pool: Pool) -> Done | Later:
        # A cancel that came before the registration was not heard: the record knows.
        await self.look_again(record.tenant, record.raw_id)
        async with self.open_shards.entered(record.raw_id, run.pool, run.leaving):
            if run.stopped is Stop.SHUTDOWN:
                return Later(0)
            return await self._run_entered(record, run, pool)

    async def _run_entered(self, record: BatchRecord, run: ShardRun, pool: Pool) -> Done | Later:
        shard = run.shard
        await run.recover()
        begun = await self._caution.before(record, run)
        try:
            await self._caution.execute(record, run, pool, begun)
        except (ServiceUnavailable, ObjectStoreUnavailable):
            await self._caution.end_unharmed(record, shard, begun)
            raise
        if run.stopped is Stop.SUPERSEDED:
            _log.info("shard.settled_by_another", batch=record.raw_id, shard=shard)
            return Done()
        if run.stopped is Stop.SHUTDOWN or (run.stopped is Stop.WITHDRAWN and not run.is_complete):
            await run.checkpoint()
            # What it has made durable is told as well, or counts that clients have seen would fall.
            told = run.progress if run.progress.results > begun.results else begun
            await self._caution.end_unharmed(record, shard, told)
            _log.info("shard.handed_back", batch=record.raw_id, shard=shard)
            return Later(0)
        return await self._settle(record, run)

    async def _run_natively(self, record: BatchRecord, run: NativeRun) -> Done | Later:
        """Follow a batch on the server that runs it whole. That runners are lost meanwhile does not speak against it:
        they hardly touch its lines."""
        with self._natives.counted(record):
            await self.look_again(record.tenant, record.raw_id)
            await run.recover()
            await run.execute()
        if run.stopped is Stop.SUPERSEDED:
            return Done()
        if run.stopped is Stop.SHUTDOWN:
            return Later(0)
        return await self._settle(record, run)

    async def _is_handed_in(self, record: BatchRecord, shard: int) -> bool:
        return record.is_settled(shard) or await self._store.outcome(record, shard) is not None

    async def _settle(self, record: BatchRecord, run: ShardRun | NativeRun) -> Done:
        """Hand in what the shard came to. An outage is waited out here: what is in memory alone would otherwise have
        to be asked for again."""
        outcome = await self._through_outages(run.settle)
        first = await self._through_outages(lambda: self._store.hand_in(record, outcome))
        crash_point("outcome.handed_in")
        await self._through_outages(lambda: self._store.queue_step(record.tenant, record.raw_id))
        crash_point("outcome.told")
        _log.info(
            "shard.settled" if first else "shard.settled_by_another",
            batch=record.raw_id,
            shard=run.shard,
            completed=outcome.completed,
            failed=outcome.failed,
            not_run=outcome.not_run,
        )
        return Done()

    async def _through_outages(self, work: Callable[[], Awaitable[T]]) -> T:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type((ServiceUnavailable, ObjectStoreUnavailable)),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
            stop=lambda _: self._shutting_down,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                return await work()
        raise AssertionError("tenacity ends by a result or an error")

    @contextmanager
    def _registered(self, record: BatchRecord, run: ShardRun | NativeRun) -> Iterator[None]:
        raw_id = record.raw_id
        runs = self._running.setdefault(raw_id, set())
        runs.add(run)
        self._records[raw_id] = record
        if self._shutting_down:
            run.stop(Stop.SHUTDOWN)
        try:
            yield
        finally:
            runs.discard(run)
            if not runs:
                self._running.pop(raw_id, None)
                self._records.pop(raw_id, None)

    @contextmanager
    def _deadline(self, record: BatchRecord, run: ShardRun | NativeRun) -> Iterator[None]:
        """Stop by itself at the batch's deadline, whether or not anybody says so."""
        left = max(0.0, record.expires_at - self._clock.now())
        timer = asyncio.get_running_loop().call_later(left, run.stop, Stop.EXPIRED)
        try:
            yield
        finally:
            timer.cancel()
