"""What callers may ask of the batches there are: get, list, cancel."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing, suppress
from itertools import chain

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.batch_views import to_batch
from batchyard.batch_runner.filters import fits
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.pauses import Pauses
from batchyard.batch_runner.tally import ShardProgress
from batchyard.batch_runner.validate import shortened
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import (
    Batch,
    BatchPage,
    BatchStatus,
    CancelBatch,
    GetBatch,
    ListBatches,
    RequestCounts,
)
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.crash import crash_point
from batchyard.common.errors import InvalidRequest, NotFound, ServiceUnavailable
from batchyard.common.ids import decode_id, is_raw_id, new_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import RevisionConflict
from batchyard.common.objects import ObjectStoreError
from batchyard.common.paging import PageWindow, fitting

_log = get_logger(__name__)


class Batches:
    """The commands of batch-runner. `tenant` is the caller's; nobody else's batch exists for it."""

    def __init__(self, store: BatchStore, fleet: Fleet, pauses: Pauses, clock: Clock) -> None:
        self._store = store
        self._pauses = pauses
        self._fleet = fleet
        self._clock = clock

    async def admit(self, record: BatchRecord) -> Batch:
        """Record a new batch, unless it is there already, and queue its planning; the batch as it is now.

        Raises:
            ServiceUnavailable: NATS is away. The batch may have been recorded; its ID is claimed, so try again.
        """
        try:
            await self._store.records.create(record.key, record)
        except RevisionConflict:
            known = await self.made(record.tenant, record.raw_id)
            if known is None:
                raise ServiceUnavailable("The batch is being removed. Please retry shortly.") from None
            return known
        crash_point("batch.recorded")
        with suppress(ServiceUnavailable):
            # The batch is there, and the reconciler moves it: no reason to answer with an error.
            await self._store.queue_step(record.tenant, record.raw_id)
        _log.info(
            "batch.created", batch=record.raw_id, tenant=record.tenant, model=record.model, retry_of=record.retry_of
        )
        return await self.live(record)

    async def made(self, tenant: str, raw_id: str) -> Batch | None:
        """The batch that a wish has made before, as it is now."""
        record = await self._store.get(tenant, raw_id)
        return None if record is None else await self.live(record)

    async def get(self, tenant: str, command: GetBatch) -> Batch:
        """The batch as it is now, with what its running shards have durably done."""
        record = await self._find(tenant, command.batch_id)
        return await self.live(record)

    async def list(self, tenant: str, command: ListBatches) -> BatchPage:
        """The newest batches first, possibly fewer than the limit; `after` is the last ID of the page before.

        A position in the listing is an ID and not a batch: pages stay in step whatever is created, or changes its
        status, between two of them.

        Raises:
            InvalidRequest: `after` is not the ID of a batch.
        """
        after = _cursor(command.after) if command.after is not None else None
        if command.model is not None:
            command = command.model_copy(update={"model": self._fleet.public_name(command.model)})
        window = PageWindow[BatchRecord](command.limit, after=after)
        async with aclosing(self._store.list(tenant)) as entries:
            async for entry in entries:
                if fits(entry.value, command):
                    window.offer(entry.value.raw_id, entry.value)
        data = fitting(await asyncio.gather(*(self.live(record) for record in window.records())))
        return BatchPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=command.limit > 0 and window.has_more(len(data)),
        )

    async def cancel(self, tenant: str, command: CancelBatch) -> Batch:
        """Stop a batch; what has been answered is kept.

        Raises:
            Conflict: It has ended already, unless it was cancelled and the client asks again for want of an answer.
        """
        record = await self._find(tenant, command.batch_id)
        now = int(self._clock.now())
        output, error = new_raw_id("file"), new_raw_id("file")
        changed = await self._store.change(
            record,
            lambda current: transitions.cancel_requested(
                current, now, output.removeprefix("file-"), error.removeprefix("file-"), again=command.again
            ),
        )
        if changed is None:
            raise _no_batch(command.batch_id)
        if changed.status is not BatchStatus.CANCELLING:
            return to_batch(changed)
        crash_point("batch.cancelling")
        with suppress(ServiceUnavailable):
            await self._store.broadcast(changed)
            await self._store.queue_step(tenant, changed.raw_id)
        return await self.live(changed)

    async def _find(self, tenant: str, batch_id: str) -> BatchRecord:
        return await self._store.find(tenant, batch_id)

    async def live(self, record: BatchRecord) -> Batch:
        """The object a client sees, with what running shards have done and is not counted yet."""
        if record.status not in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING, BatchStatus.FINALIZING):
            return to_batch(record)
        running = await self._running(record)
        cost = self._fleet.cost_of(_used(record, running), record.model)
        return to_batch(record, *_sum(running), await self._why_it_waits(record, running), cost)

    async def used(self, record: BatchRecord) -> tuple[Work, ...]:
        """What a batch that has not ended has durably used, each part with its model."""
        work = _used(record, await self._running(record))
        return tuple(part.model_copy(update={"model": part.model or record.model}) for part in work)

    async def _running(self, record: BatchRecord) -> tuple[ShardProgress, ...]:
        found = await asyncio.gather(*(self._store.progress(record, shard) for shard in record.outstanding()))
        return tuple(progress for progress in found if progress is not None)

    async def _why_it_waits(self, record: BatchRecord, running: Sequence[ShardProgress]) -> str | None:
        if record.status is BatchStatus.IN_PROGRESS and (gone := await self._unconfigured(record)):
            return _unconfigured_reason(gone, is_mixed=record.model is None)
        # What a server runs whole already runs on there.
        runs_there = record.native is not None and record.native.batch_id is not None
        paused = None if runs_there else self._pauses.reason(record.tenant, record.key_id)
        return paused or _reason(record, running)

    async def _unconfigured(self, record: BatchRecord) -> Sequence[str]:
        """The models of the batch that this process knows no pool for."""
        if record.pool is not None:
            return [] if record.pool in self._fleet.pools else [record.model or record.pool]
        try:
            table = await self._store.table(record)
        except (ObjectStoreError, LookupError):
            return []  # it is over by now, or will be told next time
        waiting = (table.shards[shard].pool for shard in record.outstanding())
        gone = {pool for pool in waiting if pool not in self._fleet.pools}
        return sorted({table.names.get(name, name) for pool in gone for name in table.models_of(pool) or ()})


def _used(record: BatchRecord, running: Iterable[ShardProgress]) -> list[Work]:
    return [*record.all_work, *chain.from_iterable(progress.work for progress in running)]


def _sum(running: Sequence[ShardProgress]) -> tuple[RequestCounts, Usage]:
    counts = RequestCounts(
        completed=sum(progress.completed for progress in running), failed=sum(progress.failed for progress in running)
    )
    return counts, sum((progress.usage for progress in running), Usage())


def _unconfigured_reason(models: Sequence[str], *, is_mixed: bool) -> str:
    names = " and ".join(f"'{name}'" for name in models)
    subject = f"The model {names} is" if len(models) == 1 else f"The models {names} are"
    others = ", the others go on" if is_mixed else ""
    return f"{subject} no longer configured. The requests wait until that changes{others}; none is lost."


def _reason(record: BatchRecord, running: Sequence[ShardProgress]) -> str | None:
    """Why the batch does not move: in one of several models, what holds some of its lines while others go on."""
    missing = sorted({progress.waits_for for progress in running if progress.waits_for is not None})
    is_mixed = record.model is None
    if not missing or (not is_mixed and any(progress.waits_for is None for progress in running)):
        return None
    names = " nor of ".join(f"'{name}'" for name in missing)
    requests = "Its requests wait for one, the others go on" if is_mixed else "The requests wait for one"
    return f"No server of the model {names} answers. {requests}; none is lost."


def _raw(batch_id: str) -> str:
    raw = decode_id(batch_id).raw
    if not is_raw_id("batch", raw):
        raise _no_batch(batch_id)
    return raw


def _cursor(after: str) -> str:
    raw = decode_id(after).raw
    if not is_raw_id("batch", raw):
        message = f"Invalid 'after': '{shortened(after)}' is not the ID of a batch."
        raise InvalidRequest(message, param="after", code="invalid_value")
    return raw


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id}'.", param="id")
