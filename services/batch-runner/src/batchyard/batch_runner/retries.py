"""Retries: a new batch over the lines of an ended one that have no success."""

from batchyard.batch_runner.admission import Admission, Applicant
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.claims import Claims
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.wish import seconds_of
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import Batch, BatchStatus, RetryBatch
from batchyard.common.contracts.files import Download, OpenDownload
from batchyard.common.crash import crash_point
from batchyard.common.errors import Conflict, NotFound
from batchyard.common.messaging.commands import CommandClient


class Retries:
    """The command that makes a batch of another one's errors."""

    def __init__(
        self,
        store: BatchStore,
        claims: Claims,
        batches: Batches,
        commands: CommandClient,
        access: ModelAccess,
        admission: Admission,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._admission = admission
        self._estimate = settings.estimate
        self._store = store
        self._claims = claims
        self._batches = batches
        self._commands = commands
        self._access = access
        self._clock = clock

    async def retry(self, tenant: str, command: RetryBatch) -> Batch:
        """Record the new batch and queue its planning, which picks the lines; or answer the one that the same wish has
        made before.

        Raises:
            NotFound: There is no such batch, or one of the files that are needed is gone.
            Conflict: The batch has not ended, or has no line to send again; or the idempotency key stands for another.
            PermissionDenied: The batch's model may not be used.
            InvalidRequest: The window is not supported.
            TooManyRequests: A limit or a budget of the team or of the key is reached; nothing is made then.
        """
        known = await self._claims.known(tenant, command)
        if known is not None and (made := await self._batches.made(tenant, known.raw_id)) is not None:
            return made
        ended = await self._store.find(tenant, command.batch_id)
        self._access.check(tenant, command.key_models, ended.model)
        check_retryable(ended)
        errors = await self._open(ended, "error", ended.error_file_id)
        lines = await self._open(ended, "input", ended.input_file_id)
        now = int(self._clock.now())
        seconds_of(window_of(ended, command))
        claim = known or await self._claims.claim(tenant, command)
        crash_point("batch.claimed")
        if (made := await self._batches.made(tenant, claim.raw_id)) is not None:
            return made
        size = self._size(ended, lines)
        await self._admission.admit(
            Applicant(tenant, claim.raw_id, size, ended.model, command.key_id, command.key_limits)
        )
        keys = {"input_key": lines.object_key, "retried_key": errors.object_key}
        return await self._batches.admit(retry_record(ended, command, claim.raw_id, now, size, **keys))

    def _size(self, ended: BatchRecord, lines: Download) -> Size:
        """What is left of the ended batch."""
        whole = ended.size or self._estimate.at_first(ended.endpoint, lines.file.bytes, ended.lines)
        return whole.share(ended.lines - ended.completed, ended.lines)

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


def window_of(ended: BatchRecord, command: RetryBatch) -> str:
    """The completion window of the new batch."""
    return command.completion_window if command.completion_window is not None else ended.completion_window


def retry_record(
    ended: BatchRecord, command: RetryBatch, raw_id: str, now: int, size: Size, *, input_key: str, retried_key: str
) -> BatchRecord:
    """The record of the new batch: as the ended one was, but for what the command says. Raises InvalidRequest."""
    window = window_of(ended, command)
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
        key_id=command.key_id,
        key_alias=command.key_alias,
        key_models=command.key_models,
        key_limits=command.key_limits,
        size=size,
        created_at=now,
        expires_at=now + seconds_of(window),
    )
