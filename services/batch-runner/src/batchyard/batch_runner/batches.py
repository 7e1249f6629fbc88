"""What callers may ask of batches: create, get, list, cancel."""

import asyncio
from contextlib import aclosing, suppress

from batchyard.batch_runner import batch as transitions
from batchyard.batch_runner.batch import BatchRecord, to_batch
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.tally import ShardProgress
from batchyard.batch_runner.validate import normal_path
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import (
    ENDPOINTS,
    Batch,
    BatchPage,
    BatchStatus,
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
    RequestCounts,
    Usage,
)
from batchyard.common.contracts.files import Download, OpenDownload, Purpose
from batchyard.common.crash import crash_point
from batchyard.common.errors import InvalidRequest, NotFound, ServiceUnavailable
from batchyard.common.ids import decode_id, encode_id, is_raw_id, new_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.paging import PageWindow, fitting
from batchyard.common.windows import window_seconds

_log = get_logger(__name__)


class Batches:
    """The commands of batch-runner. `tenant` is the caller's; nobody else's batch exists for it."""

    def __init__(self, store: BatchStore, commands: CommandClient, settings: RunnerSettings, clock: Clock) -> None:
        self._store = store
        self._commands = commands
        self._settings = settings
        self._clock = clock

    async def create(self, tenant: str, command: CreateBatch) -> Batch:
        """Record the batch and queue its planning. Whether its lines are sound is found out afterwards.

        Raises:
            NotFound: There is no such input file.
            InvalidRequest: The file has another purpose, or endpoint or window are not supported.
        """
        endpoint = _endpoint(command.endpoint)
        seconds = _window(command.completion_window)
        download = await self._commands.call(tenant, OpenDownload(file_id=command.input_file_id))
        _check_purpose(command, download)
        now = int(self._clock.now())
        model = download.model or command.model
        record = BatchRecord(
            raw_id=new_raw_id("batch"),
            tenant=tenant,
            endpoint=endpoint,
            input_file_id=encode_id("file", download.raw_id, download.model),
            input_key=download.object_key,
            id_model=model,
            model=model,
            completion_window=command.completion_window,
            metadata=command.metadata,
            output_expires_after=command.output_expires_after,
            key_alias=command.key_alias,
            created_at=now,
            expires_at=now + seconds,
        )
        await self._store.records.create(record.key, record)
        crash_point("batch.recorded")
        with suppress(ServiceUnavailable):
            # The batch is there: an error now would make the client create a second one. The reconciler moves it.
            await self._store.queue_step(tenant, record.raw_id)
        _log.info("batch.created", batch=record.raw_id, tenant=tenant, model=model)
        return to_batch(record)

    async def get(self, tenant: str, command: GetBatch) -> Batch:
        """The batch as it is now, with what its running shards have durably done."""
        record = await self._find(tenant, command.batch_id)
        return await self._live(record)

    async def list(self, tenant: str, command: ListBatches) -> BatchPage:
        """The newest batches first, possibly fewer than the limit; `after` is the last ID of the page before."""
        after = _raw(command.after) if command.after is not None else None
        window = PageWindow[BatchRecord](command.limit, after=after)
        async with aclosing(self._store.list(tenant)) as entries:
            async for entry in entries:
                window.offer(entry.value.raw_id, entry.value)
        data = fitting(await asyncio.gather(*(self._live(record) for record in window.records())))
        return BatchPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=command.limit > 0 and window.has_more(len(data)),
        )

    async def cancel(self, tenant: str, command: CancelBatch) -> Batch:
        """Stop a batch; what has been answered is kept.

        Raises:
            Conflict: It has ended already.
        """
        record = await self._find(tenant, command.batch_id)
        now = int(self._clock.now())
        output, error = new_raw_id("file"), new_raw_id("file")
        changed = await self._store.change(
            record,
            lambda current: transitions.cancel_requested(
                current, now, output.removeprefix("file-"), error.removeprefix("file-")
            ),
        )
        if changed is None:
            raise _no_batch(command.batch_id)
        crash_point("batch.cancelling")
        with suppress(ServiceUnavailable):
            await self._store.broadcast(changed)
            await self._store.queue_step(tenant, changed.raw_id)
        return await self._live(changed)

    async def _find(self, tenant: str, batch_id: str) -> BatchRecord:
        return await self._store.find(tenant, batch_id)

    async def _live(self, record: BatchRecord) -> Batch:
        if record.status not in (BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING, BatchStatus.FINALIZING):
            return to_batch(record)
        found = await asyncio.gather(*(self._store.progress(record, shard) for shard in record.outstanding()))
        running = [progress for progress in found if progress is not None]
        return to_batch(record, *_sum(running), _reason(record, running))


def _sum(running: list[ShardProgress]) -> tuple[RequestCounts, Usage]:
    counts = RequestCounts(
        completed=sum(progress.completed for progress in running), failed=sum(progress.failed for progress in running)
    )
    return counts, sum((progress.usage for progress in running), Usage())


def _reason(record: BatchRecord, running: list[ShardProgress]) -> str | None:
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


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id}'.", param="id")


def _endpoint(endpoint: str) -> str:
    path = normal_path(endpoint)
    if path not in ENDPOINTS:
        names = ", ".join(f"'{name}'" for name in ENDPOINTS[:-1])
        message = f"Invalid value: '{endpoint}'. Supported values are: {names}, and '{ENDPOINTS[-1]}'."
        raise InvalidRequest(message, param="endpoint", code="invalid_value")
    return path


def _window(window: str) -> int:
    try:
        return window_seconds(window)
    except ValueError as error:
        raise InvalidRequest(str(error), param="completion_window", code="invalid_value") from error


def _check_purpose(command: CreateBatch, download: Download) -> None:
    if download.file.purpose is not Purpose.BATCH:
        raise InvalidRequest(
            f"The file '{command.input_file_id}' has the purpose '{download.file.purpose}'; a batch needs a file "
            "uploaded with the purpose 'batch'.",
            param="input_file_id",
            code="invalid_value",
        )
