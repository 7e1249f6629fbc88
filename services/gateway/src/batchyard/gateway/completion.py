"""The end of an upload: its parts are joined, however long that takes."""

from batchyard.common.contracts.uploads import CompleteUpload, Upload, UploadStatus
from batchyard.common.errors import ServiceUnavailable
from batchyard.gateway.caller import Caller

_LONGEST_WAIT = 5.0


async def complete_upload(caller: Caller, command: CompleteUpload) -> Upload:
    """The completed upload. Raises ApiError, ServiceUnavailable also when it takes too long."""
    settings, clock = caller.gateway.settings, caller.gateway.clock
    # Well before the command's own timeout, so that silence means that nobody is there.
    command = command.model_copy(update={"wait": min(_LONGEST_WAIT, settings.command_timeout / 2)})
    # No asyncio.timeout: the request to NATS may swallow its one cancellation, and the loop would have no end.
    deadline = clock.monotonic() + settings.completion_timeout
    while clock.monotonic() < deadline:
        upload = await caller.insist(command)
        if upload.status is not UploadStatus.PENDING:
            return upload
    raise ServiceUnavailable(
        "The parts of the upload are still being joined. Please complete it again shortly.", retry_after=5
    )
