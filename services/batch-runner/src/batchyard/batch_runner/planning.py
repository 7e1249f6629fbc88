"""The step of a batch that has just been made: read its input, and plan its shards or refuse it."""

from uuid import uuid4

from batchyard.batch_runner import transitions
from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.native.servers import NativeServers, Undecided
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.plan import Plan, Planner
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import whole
from batchyard.batch_runner.step import Again, Verdict, change
from batchyard.batch_runner.validate import LineRules
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import BatchProblem, BatchStatus
from batchyard.common.crash import crash_point
from batchyard.common.logs import get_logger
from batchyard.common.messaging.work_loop import Done, Later
from batchyard.common.objects import ObjectNotFound

_UNDECIDED_DELAY = 5.0
_HELD_DELAY = 2.0
_log = get_logger(__name__)


class Planning:
    """Puts batches in progress."""

    def __init__(
        self,
        store: BatchStore,
        fleet: Fleet,
        natives: NativeServers,
        access: ModelAccess,
        admission: Admission,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._natives = natives
        self._access = access
        self._admission = admission
        self._settings = settings
        self._clock = clock

    async def take(self, record: BatchRecord) -> Verdict:
        """Plan a batch, unless it has to wait for room or for a server."""
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
        verdict = await change(
            self._store,
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
            verdict = await change(
                self._store, record, lambda current: transitions.held(current, lack.reason, size, models)
            )
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
        return await change(self._store, record, lambda current: transitions.rejected(current, self._now(), problems))

    def _now(self) -> int:
        return int(self._clock.now())


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
