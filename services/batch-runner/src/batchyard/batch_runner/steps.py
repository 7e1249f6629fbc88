"""Moving a batch on: whoever handles a step looks at the record's status and does what comes next.

Every effect may happen twice, and a process may die between any two: each is idempotent, and a step goes on from what
the record says, never from what this process remembers.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from batchyard.batch_runner import transitions
from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.batch import BatchRecord, Ending
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.native.servers import NativeServers, Undecided
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.plan import Plan, Planner
from batchyard.batch_runner.results import Results
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import fair_window, next_shards, whole
from batchyard.batch_runner.standings import Standings
from batchyard.batch_runner.transitions import IllegalTransition
from batchyard.batch_runner.validate import LineRules
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import BatchProblem, BatchStatus
from batchyard.common.crash import crash_point
from batchyard.common.errors import Conflict, InvalidRequest, NotFound
from batchyard.common.ids import new_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.work_loop import Done, Later
from batchyard.common.objects import ObjectNotFound

_SETTLE_POLL = 0.5
_BUSY_POLL = 0.25
_REFILE_DELAY = 1.0
_UNDECIDED_DELAY = 5.0
_HELD_DELAY = 2.0
_log = get_logger(__name__)

Transition = Callable[[BatchRecord], BatchRecord]


@dataclass(frozen=True, slots=True)
class Again:
    """The status has changed, or may have: look again at once."""


Verdict = Done | Later | Again


class Stepper:
    """Moves batches on, one step of a batch at a time in this process."""

    def __init__(
        self,
        store: BatchStore,
        fleet: Fleet,
        natives: NativeServers,
        results: Results,
        access: ModelAccess,
        admission: Admission,
        standings: Standings,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._admission = admission
        self._store = store
        self._fleet = fleet
        self._natives = natives
        self._results = results
        self._access = access
        self._standings = standings
        self._settings = settings
        self._clock = clock
        self._moving: set[str] = set()

    async def move(self, tenant: str, raw_id: str) -> Done | Later:
        """Do all that can be done for a batch now."""
        if raw_id in self._moving:
            # Not waited for: it would take a place from a batch that could be moved.
            return Later(_BUSY_POLL)
        self._moving.add(raw_id)
        try:
            while True:
                record = await self._store.get(tenant, raw_id)
                if record is None:
                    return Done()
                verdict = await self._step(record)
                if not isinstance(verdict, Again):
                    return verdict
        finally:
            self._moving.discard(raw_id)

    async def _step(self, record: BatchRecord) -> Verdict:
        if record.outbox:
            await self._store.announce(record, record.outbox[0])
            return Again()
        match record.status:
            case BatchStatus.VALIDATING:
                return await self._plan(record)
            case BatchStatus.IN_PROGRESS:
                return await self._run(record)
            case BatchStatus.FINALIZING | BatchStatus.CANCELLING:
                return await self._finish(record)
            case _:
                return await self._sweep(record)

    async def _plan(self, record: BatchRecord) -> Verdict:
        if record.held is not None and record.size is not None:
            waiting = await self._wait_for_room(record, record.size, record.models)
            if waiting is not None:
                return waiting
        rules = LineRules(endpoint=record.endpoint, max_line_bytes=self._settings.max_line_bytes)
        may_use = self._access.of(record.tenant, record.key_models)
        planner = Planner(
            self._settings, rules, record.id_model, self._fleet.pool_for, self._fleet.public_name, may_use
        )
        try:
            pinned = await self._store.pin_input(record)
        except ObjectNotFound as error:
            return await self._reject(record, (_file_gone(record, error.key),))
        crash_point("input.pinned")
        plan = await planner.plan(self._store.objects, pinned)
        if not isinstance(plan, Plan):
            return await self._reject(record, plan.problems)
        waiting = await self._wait_for_room(record, plan.size, plan.models)
        if waiting is not None:
            return waiting
        try:
            native = await self._choose_native(record, plan)
        except Undecided:
            return Later(_UNDECIDED_DELAY)
        if isinstance(native, BatchProblem):
            return await self._reject(record, (native,))
        table = plan.table if native is None else whole(plan.table)
        key = await self._store.write_table(record, uuid4().hex, table)
        crash_point("table.written")
        shards = len(table.shards)
        _log.info("batch.planned", batch=record.raw_id, pool=plan.pool, lines=plan.lines, shards=shards)
        verdict = await self._change(
            record,
            lambda current: transitions.planned(
                current,
                self._now(),
                pool=plan.pool,
                model=plan.model,
                input_key=pinned,
                plan_key=key,
                lines=plan.lines,
                shards=shards,
                native=native,
                size=plan.size,
                models=plan.models,
            ),
        )
        crash_point("batch.planned")
        # Who was slower than a cancel has written objects that nobody knows of.
        await self._store.tidy_up(record)
        return verdict

    async def _wait_for_room(self, record: BatchRecord, size: Size, models: tuple[str, ...]) -> Verdict | None:
        """What comes next for a batch that does not fit now that its size is known; None for one that fits. Past its
        deadline it is let through, to expire."""
        lack = await self._admission.measure(record, size, models)
        if lack is None or self._now() >= record.expires_at:
            return None
        if lack.problem is not None:
            return await self._reject(record, (lack.problem,))
        if record.held != lack.reason:
            _log.info("batch.held", batch=record.raw_id, tenant=record.tenant, reason=lack.reason)
            verdict = await self._change(record, lambda current: transitions.held(current, lack.reason, size, models))
            if isinstance(verdict, Done):
                return verdict
            changed = await self._store.get(record.tenant, record.raw_id)
            if changed is None or changed.status is not BatchStatus.VALIDATING:
                return Again()
        return Later(_HELD_DELAY)

    async def _choose_native(self, record: BatchRecord, plan: Plan) -> NativeNote | BatchProblem | None:
        """The server that is to run the batch whole, if one is. Past its deadline it makes no difference."""
        if self._now() >= record.expires_at:
            return None
        if plan.pool is not None:
            return await self._natives.choose(plan.pool)
        return await self._natives.check_mixed(plan.table.pools)

    async def _reject(self, record: BatchRecord, problems: tuple[BatchProblem, ...]) -> Verdict:
        _log.info("batch.rejected", batch=record.raw_id, problems=len(problems), first=problems[0].code)
        return await self._change(record, lambda current: transitions.rejected(current, self._now(), problems))

    async def _run(self, record: BatchRecord) -> Verdict:
        counted = await self._count(record)
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
        verdict = await self._change(
            record,
            lambda current: transitions.finalizing(current, self._now(), ending, _uuid(), _uuid()),
        )
        crash_point("batch.finalizing")
        if ending is BatchStatus.EXPIRED:
            await self._store.broadcast(record)
        return verdict

    async def _count(self, record: BatchRecord) -> BatchRecord | None:
        """Take the outcomes of shards that have been handed in into the record."""
        found = await asyncio.gather(*(self._store.outcome(record, shard) for shard in record.outstanding()))
        outcomes = [outcome for outcome in found if outcome is not None]
        if not outcomes:
            return record
        problems = next((outcome.problems for outcome in outcomes if outcome.problems), ())
        if problems and record.status is BatchStatus.IN_PROGRESS:
            _log.info("batch.refused", batch=record.raw_id, problems=len(problems), first=problems[0].code)
            await self._change(record, lambda current: transitions.refused(current, self._now(), problems))
            return None

        def count(current: BatchRecord) -> BatchRecord:
            for outcome in outcomes:
                current = transitions.settled(current, outcome)
            return current

        counted = await self._store.change(record, count)
        crash_point("outcomes.counted")
        if counted is not None:
            await self._store.tick(counted)
        return counted

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

    async def _finish(self, record: BatchRecord) -> Verdict:
        counted = await self._count(record)
        if counted is None:
            return Done()
        missing = list(counted.outstanding())
        if missing:
            began = counted.cancelling_at or counted.finalizing_at or 0
            if self._clock.now() < began + self._patience(counted):
                # Said again each time: a runner that did not hear it would go on for an end that has come.
                await self._store.broadcast(counted)
                return Later(_SETTLE_POLL)
            for shard in missing:
                await self._results.settle_abandoned(counted, shard)
                crash_point("shard.abandoned")
            return Again()
        try:
            files = await self._results.publish(counted)
        except (InvalidRequest, NotFound, Conflict) as error:
            # The place of a file that was chosen too long ago, as before a long outage, can no longer be claimed.
            _log.warning("batch.refiled", batch=record.raw_id, reason=error.message)
            await self._change(counted, lambda current: transitions.refiled(current, _uuid(), _uuid()))
            return Later(_REFILE_DELAY)
        crash_point("files.registered")
        # Before the client can know that the batch has ended: it may want to send the next one.
        await self._admission.release(counted)
        crash_point("limits.released")
        verdict = await self._change(
            counted,
            lambda current: transitions.finished(
                current,
                self._now(),
                files.output_id,
                files.error_id,
                self._fleet.cost_of(current.all_work, current.model),
            ),
        )
        crash_point("batch.ended")
        _log.info("batch.ended", batch=record.raw_id, status=counted.ending, **counted.counts.model_dump())
        return verdict

    def _patience(self, record: BatchRecord) -> float:
        """Seconds that the runners of an ending batch have to hand in what they have."""
        patience = self._settings.settle_patience
        return patience if record.native is None else patience + self._settings.native_cancel_grace

    async def _sweep(self, record: BatchRecord) -> Verdict:
        if record.swept:
            return Done()
        await self._admission.release(record)
        if record.native is not None:
            await self._natives.clean(record)
            crash_point("native.cleaned")
        await self._store.remove_objects(record)
        crash_point("objects.removed")
        await self._store.forget_shards(record)
        await self._store.change(record, transitions.swept)
        return Done()

    async def _change(self, record: BatchRecord, transition: Transition) -> Verdict:
        try:
            changed = await self._store.change(record, transition)
        except IllegalTransition:
            # Someone else was faster (another replica, a cancel): go on from what they made of it.
            return Again()
        return Again() if changed is not None else Done()

    def _now(self) -> int:
        return int(self._clock.now())


def _uuid() -> str:
    return new_raw_id("file").removeprefix("file-")


def _file_gone(record: BatchRecord, key: str) -> BatchProblem:
    if key == record.retried_key:
        return BatchProblem(
            code="file_not_found",
            message=f"The error file of batch '{record.retry_of}' was deleted before it could be read.",
            param="retry_of",
        )
    return BatchProblem(
        code="file_not_found",
        message=f"The input file '{record.input_file_id}' was deleted before the batch could read it.",
        param="input_file_id",
    )
