"""Retries: a new batch over the lines of an ended one that have no success."""

from contextlib import suppress

from batchyard.batch_runner.batch import BatchRecord, to_batch
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import Batch, BatchStatus, RetryBatch
from batchyard.common.contracts.files import Download, OpenDownload
from batchyard.common.crash import crash_point
from batchyard.common.errors import Conflict, InvalidRequest, NotFound, ServiceUnavailable
from batchyard.common.ids import new_raw_id
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.windows import window_seconds

_log = get_logger(__name__)


class Retries:
    """The command that makes a batch of another one's errors."""

    def __init__(self, store: BatchStore, commands: CommandClient, clock: Clock) -> None:
        self._store = store
        self._commands = commands
        self._clock = clock

    async def retry(self, tenant: str, command: RetryBatch) -> Batch:
        """Record the new batch and queue its planning, which picks the lines.

        Raises:
            NotFound: There is no such batch, or one of the files that are needed is gone.
            Conflict: The batch has not ended, or has no line to send again.
            InvalidRequest: The window is not supported.
        """
        ended = await self._store.find(tenant, command.batch_id)
        check_retryable(ended)
        errors = await self._open(ended, "error", ended.error_file_id)
        lines = await self._open(ended, "input", ended.input_file_id)
        raw_id, now = new_raw_id("batch"), int(self._clock.now())
        record = retry_record(ended, command, raw_id, now, input_key=lines.object_key, retried_key=errors.object_key)
        await self._store.records.create(record.key, record)
        crash_point("batch.recorded")
        with suppress(ServiceUnavailable):
            # The batch is there: an error now would make the client retry a second time. The reconciler moves it.
            await self._store.queue_step(tenant, record.raw_id)
        _log.info("batch.retried", batch=record.raw_id, tenant=tenant, retry_of=ended.raw_id)
        return to_batch(record)

    async def _open(self, ended: BatchRecord, what: str, file_id: str | None) -> Download:
        assert file_id is not None
        try:
            return await self._commands.call(ended.tenant, OpenDownload(file_id=file_id))
        except NotFound as error:
            raise NotFound(
                f"The {what} file '{file_id}' of batch '{ended.public_id}' was deleted or has expired; without it the "
                "batch cannot be retried.",
                param=f"{what}_file_id",
            ) from error


def check_retryable(ended: BatchRecord) -> None:
    """Raise Conflict for a batch of which there is nothing to send again, or not yet."""
    if not ended.status.is_terminal:
        raise Conflict(
            f"Cannot retry a batch with status '{ended.status}'. Wait until it has ended, or cancel it first."
        )
    if ended.status is BatchStatus.FAILED:
        raise Conflict(
            "Cannot retry a batch with status 'failed': its input was refused, for the reasons in 'errors'. Create a "
            "batch over a corrected file."
        )
    if ended.error_file_id is None:
        raise Conflict(
            "Nothing to retry: every request of the batch succeeded."
            if ended.status is BatchStatus.COMPLETED
            else f"Nothing to retry: the batch was {ended.status} without an error file. Create a batch over its input."
        )


def retry_record(
    ended: BatchRecord, command: RetryBatch, raw_id: str, now: int, *, input_key: str, retried_key: str
) -> BatchRecord:
    """The record of the new batch: as the ended one was, but for what the command says. Raises InvalidRequest."""
    window = command.completion_window if command.completion_window is not None else ended.completion_window
    try:
        seconds = window_seconds(window)
    except ValueError as error:
        raise InvalidRequest(str(error), param="completion_window", code="invalid_value") from error
    return BatchRecord(
        raw_id=raw_id,
        tenant=ended.tenant,
        endpoint=ended.endpoint,
        input_file_id=ended.input_file_id,
        input_key=input_key,
        retry_of=ended.public_id,
        retried_key=retried_key,
        id_model=ended.model,
        model=ended.model,
        completion_window=window,
        metadata=command.metadata if command.metadata is not None else ended.metadata,
        output_expires_after=ended.output_expires_after,
        key_alias=command.key_alias,
        created_at=now,
        expires_at=now + seconds,
    )
