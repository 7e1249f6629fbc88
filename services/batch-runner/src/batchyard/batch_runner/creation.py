"""Making a batch: once for each wish, however often the wish is sent."""

from batchyard.batch_runner.admission import Admission, Applicant
from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.claims import Claim, Claims
from batchyard.batch_runner.estimate import Size
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.source import Source, opened, placed
from batchyard.batch_runner.wish import check_purpose, check_source, endpoint_of, seconds_of
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import Batch, CreateBatch
from batchyard.common.contracts.files import CreateFile, Purpose
from batchyard.common.crash import crash_point
from batchyard.common.errors import ApiError, Conflict, InvalidRequest
from batchyard.common.inline_requests import INLINE_FILENAME
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient

_log = get_logger(__name__)


class Creation:
    """The command that makes batches."""

    def __init__(
        self,
        store: BatchStore,
        claims: Claims,
        batches: Batches,
        fleet: Fleet,
        commands: CommandClient,
        access: ModelAccess,
        admission: Admission,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._admission = admission
        self._estimate = settings.estimate
        self._claims = claims
        self._batches = batches
        self._fleet = fleet
        self._commands = commands
        self._access = access
        self._clock = clock

    async def create(self, tenant: str, command: CreateBatch) -> Batch:
        """Record the batch and queue its planning; or answer the one that the same wish has made before, as it is now.

        Whether the lines are sound is found out afterwards.

        Raises:
            NotFound: There is no such input file.
            InvalidRequest: The file has another purpose, or endpoint or window are not supported.
            PermissionDenied: The model may not be used.
            Conflict: The idempotency key stands for another batch.
            TooManyRequests: A limit or a budget of the team or of the key is reached; nothing is made then.
        """
        check_source(tenant, command)
        endpoint_of(command)
        seconds_of(command.completion_window)
        command = await placed(tenant, command, self._commands, self._store.objects)
        known = await self._claims.known(tenant, command)
        if known is not None and (made := await self._batches.made(tenant, known.raw_id)) is not None:
            return made
        file = await opened(tenant, command, self._commands)
        self._access.check(tenant, command.key_models, (file and file.model) or command.model)
        claim = known or await self._claims.claim(tenant, command)
        crash_point("batch.claimed")
        if (made := await self._batches.made(tenant, claim.raw_id)) is not None:
            return made
        applicant = self._applicant(tenant, command, claim, file)
        await self._admission.admit(applicant)
        try:
            file = file or await self._filed(tenant, command, claim)
        except ApiError:
            await self._admission.withdraw(applicant)
            raise
        return await self._batches.admit(self._record(tenant, command, claim, file, applicant.size))

    def _applicant(self, tenant: str, command: CreateBatch, claim: Claim, file: Source | None) -> Applicant:
        model = (file.model if file is not None else None) or command.model
        bytes_, lines = (file.bytes, file.lines) if file is not None else (command.input_bytes, command.input_lines)
        return Applicant(
            tenant=tenant,
            raw_id=claim.raw_id,
            size=self._estimate.at_first(endpoint_of(command), bytes_ or 0, lines),
            model=None if model is None else self._fleet.public_name(model),
            key_id=command.key_id,
            key_limits=command.key_limits,
        )

    async def _filed(self, tenant: str, command: CreateBatch, claim: Claim) -> Source:
        """The lines that came along as a file: the same one for every try, as the claim names their place."""
        assert claim.upload_key is not None
        create = CreateFile(
            filename=INLINE_FILENAME,
            purpose=Purpose.BATCH,
            object_key=claim.upload_key,
            model=command.model,
            lines=command.input_lines,
        )
        try:
            file = await self._commands.call(tenant, create)
        except InvalidRequest as error:
            if error.param != "object_key":
                raise
            raise Conflict(
                "The lines that this request came with first are gone: their file was deleted before the batch was "
                "made. Send them as a new request, with a new Idempotency-Key if you use one.",
                param="requests",
            ) from error
        check_purpose(file.id, file, "upload_key")  # its place may have been claimed before, as something else
        return Source(file.id, claim.upload_key, command.model, file.bytes, command.input_lines)

    def _record(self, tenant: str, command: CreateBatch, claim: Claim, file: Source, size: Size) -> BatchRecord:
        now = int(self._clock.now())
        model = file.model or command.model
        return BatchRecord(
            raw_id=claim.raw_id,
            tenant=tenant,
            endpoint=endpoint_of(command),
            input_file_id=file.file_id,
            input_key=file.object_key,
            id_model=model,
            model=None if model is None else self._fleet.public_name(model),
            completion_window=command.completion_window,
            metadata=command.metadata,
            output_expires_after=command.output_expires_after,
            key_id=command.key_id,
            key_alias=command.key_alias,
            key_models=command.key_models,
            key_limits=command.key_limits,
            size=size,
            created_at=now,
            expires_at=now + seconds_of(command.completion_window),
        )
