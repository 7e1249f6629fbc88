"""Whether there is room for a batch: in the limits of its team and its key, and in their budgets.

Room is taken under the batch's ID before the batch is made, and given back when it ends. What dies in between is found
by the audit, which compares what is counted with the batches that there are; billing does so with what it set aside.
"""

from collections.abc import Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.enqueued import (
    UNLIMITED,
    Bounds,
    Enqueued,
    EnqueuedRecord,
    Shortage,
    admitted,
    audited,
    entry_of,
    forgotten,
    measured,
    released,
    used,
)
from batchyard.batch_runner.enqueued_store import EnqueuedStore
from batchyard.batch_runner.estimate import Size
from batchyard.common.clock import Clock
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.batches import BatchProblem, BatchStatus
from batchyard.common.contracts.budgets import KeyLimits, ReserveBudget
from batchyard.common.contracts.enqueued import EnqueuedReport, EnqueuedScope, GetEnqueued
from batchyard.common.crash import crash_point
from batchyard.common.errors import ApiError, ServiceUnavailable, TooManyRequests
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.teams import Teams

_GRACE_SECONDS = 120.0
"""For a batch to be made once room was taken for it: longer than any command may take."""

_COUNTED = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
REFUSALS = Counter("batchyard_batches_refused", "Batches refused for want of room, by the reason", ["code"])
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Applicant:
    """What has to be known of a batch to find room for it; `model` is as it is shown, if it is known."""

    tenant: str
    raw_id: str
    size: Size
    model: str | None
    key_id: str | None
    key_limits: Limits | None


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A planned batch does not fit. `problem` says why if it never can; otherwise it waits."""

    reason: str
    problem: BatchProblem | None


class Admission:
    """Takes room and gives it back. `teams` tells the limits of teams."""

    def __init__(
        self, store: BatchStore, enqueued: EnqueuedStore, teams: Teams, commands: CommandClient, clock: Clock
    ) -> None:
        self._store = store
        self._enqueued = enqueued
        self._teams = teams
        self._commands = commands
        self._clock = clock

    async def admit(self, applicant: Applicant) -> None:
        """Take room for a new batch. Again for the same one changes nothing.

        Raises:
            TooManyRequests: A limit is reached.
            QuotaExceeded: A budget is.
            ServiceUnavailable: Billing is away, and there is a budget to keep.
        """
        bounds = self._bounds(applicant.tenant, applicant.key_limits)
        try:
            if not bounds.is_unlimited:
                await self._count(applicant, bounds)
                crash_point("limits.counted")
            if bounds.have_budget:
                await self._reserve(applicant)
                crash_point("limits.reserved")
        except TooManyRequests as error:
            REFUSALS.labels(error.code).inc()
            _log.info("batch.refused_at_limit", tenant=applicant.tenant, code=error.code, reason=error.message)
            raise

    async def withdraw(self, applicant: Applicant) -> None:
        """Give back what was taken for a batch that is not made after all. What fails here the audit makes up for."""
        with suppress(ServiceUnavailable):
            await self._enqueued.change(applicant.tenant, lambda record: (forgotten(record, applicant.raw_id), None))

    async def measure(self, record: BatchRecord, size: Size, models: tuple[str, ...]) -> NoRoom | None:
        """Correct what is counted, now that the lines have been read; what is in the way, if anything is.

        Raises:
            ServiceUnavailable: Billing is away, and there is a budget to keep.
        """
        bounds = self._bounds(record.tenant, record.key_limits)
        if not bounds.is_unlimited:
            batch = _entry(record, size, models)
            shortage = await self._enqueued.change(
                record.tenant,
                lambda counted: measured(counted, record.raw_id, batch, bounds),
                partial(self._as_it_is, record.tenant),
            )
            if shortage is not None:
                return _no_room(shortage)
        if not bounds.have_budget:
            return None
        wish = _wish(record.raw_id, size, record.key_id, record.key_limits, models[0] if len(models) == 1 else None)
        reservation = await self._commands.call(record.tenant, wish.model_copy(update={"planned": True}))
        if reservation.shortage is None:
            return None
        problem = BatchProblem(code="insufficient_quota", message=reservation.shortage)
        return NoRoom(reservation.shortage, problem if reservation.is_final else None)

    async def release(self, record: BatchRecord) -> None:
        """The batch is over, or as good as over: it counts no more. What was reserved is released by its event."""
        now = self._clock.now()
        await self._enqueued.change(record.tenant, lambda counted: (released(counted, record.raw_id, now), None))

    async def report(self, tenant: str, command: GetEnqueued) -> EnqueuedReport:
        """How much of the limits is used."""
        bounds, now = self._bounds(tenant, command.key_limits), self._clock.now()
        record = await self._enqueued.get(tenant) or EnqueuedRecord()
        key = None
        if command.key_id is not None:
            key = EnqueuedScope(limits=bounds.key, used=used(record, now, key_id=command.key_id))
        return EnqueuedReport(
            team=EnqueuedScope(limits=bounds.team, used=used(record, now)),
            models={
                model: EnqueuedScope(limits=limits, used=used(record, now, model=model))
                for model, limits in bounds.models.items()
            },
            key=key,
        )

    async def audit(self, unfinished: Iterable[tuple[str, str]]) -> None:
        """Compare what is counted with the batches themselves.

        Args:
            unfinished: Tenant and raw ID of batches that have something left to do: some may not be counted, as from
                before there was a limit.
        """
        by_tenant: dict[str, set[str]] = {}
        for tenant, raw_id in unfinished:
            by_tenant.setdefault(tenant, set()).add(raw_id)
        async with aclosing(self._enqueued.tenants()) as tenants:
            async for tenant, record in tenants:
                await self._audit(tenant, record, by_tenant.get(tenant, set()))

    async def _audit(self, tenant: str, counted: EnqueuedRecord, unfinished: set[str]) -> None:
        now = self._clock.now()
        running: dict[str, Enqueued] = {}
        over: set[str] = set()
        for raw_id in unfinished - counted.batches.keys():
            batch = await self._store.get(tenant, raw_id)
            if batch is not None and batch.status in _COUNTED:
                running[raw_id] = _entry(batch, batch.size or Size(lines=batch.lines), batch.models)
        for raw_id, entry in counted.open().items():
            batch = await self._store.get(tenant, raw_id)
            if batch is None:
                if entry.at < now - _GRACE_SECONDS:
                    over.add(raw_id)
            elif batch.status.is_terminal:
                over.add(raw_id)
        if running or over:
            _log.info("enqueued.corrected", tenant=tenant, added=sorted(running), released=sorted(over))
            await self._enqueued.change(tenant, lambda record: (audited(record, running, over, now), None))

    async def _count(self, applicant: Applicant, bounds: Bounds) -> None:
        entry = entry_of(applicant.size, applicant.key_id, applicant.model, self._clock.now())
        await self._enqueued.change(
            applicant.tenant,
            lambda record: (admitted(record, applicant.raw_id, entry, bounds), None),
            partial(self._as_it_is, applicant.tenant),
        )

    async def _reserve(self, applicant: Applicant) -> None:
        wish = _wish(applicant.raw_id, applicant.size, applicant.key_id, applicant.key_limits, applicant.model)
        try:
            await self._commands.call(applicant.tenant, wish)
        except ApiError as error:
            await self.withdraw(applicant)
            if not isinstance(error, ServiceUnavailable):
                raise
            raise ServiceUnavailable(
                "The budget cannot be checked now, as the billing service does not answer. Please retry shortly.",
                retry_after=error.retry_after,
            ) from error

    async def _as_it_is(self, tenant: str) -> EnqueuedRecord:
        """What a tenant that has got its first limit has enqueued."""
        batches = {}
        async with aclosing(self._store.list(tenant)) as entries:
            async for entry in entries:
                batch = entry.value
                if batch.status in _COUNTED:
                    batches[batch.raw_id] = _entry(batch, batch.size or Size(lines=batch.lines), batch.models)
        return EnqueuedRecord(batches=batches)

    def _bounds(self, tenant: str, key_limits: Limits | None) -> Bounds:
        team = self._teams.get(tenant)
        key = key_limits or UNLIMITED
        return Bounds(key=key) if team is None else Bounds(team.limits, team.model_limits, key)


def _entry(record: BatchRecord, size: Size, models: tuple[str, ...]) -> Enqueued:
    entry = entry_of(size, record.key_id, None, record.created_at)
    return entry.model_copy(update={"models": models or (() if record.model is None else (record.model,))})


def _wish(raw_id: str, size: Size, key_id: str | None, limits: Limits | None, model: str | None) -> ReserveBudget:
    return ReserveBudget(
        batch_id=raw_id,
        key=None if key_id is None or limits is None else KeyLimits(key_id=key_id, limits=limits),
        model=model,
        input_tokens=size.input_tokens,
        output_tokens=size.output_tokens,
    )


def _no_room(shortage: Shortage) -> NoRoom:
    code = "token_limit_exceeded" if shortage.resource == "tokens" else "too_many_tasks"
    if shortage.is_final:
        message = f"{shortage.sentence()} It cannot fit as it is: split the file, or ask for a higher limit."
        return NoRoom(message, BatchProblem(code=code, message=message))
    return NoRoom(f"{shortage.sentence()} It waits until other batches have ended; nothing is lost.", None)
