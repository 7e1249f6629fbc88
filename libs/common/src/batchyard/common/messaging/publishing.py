"""Publishing to a stream, whose answer is waited for."""

from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import APIError

from batchyard.common.errors import InternalError, ServiceUnavailable
from batchyard.common.messaging.records import MAX_MESSAGE_BYTES

_STORE_FAILED = 10077
_SUBJECT_FULL = "maximum messages per subject exceeded"


async def publish(
    js: JetStreamContext, subject: str, data: bytes, stream: str, headers: dict[str, str] | None = None
) -> None:
    """Have `stream` keep a message. One that a queue has already, by its subject, is as good as published.

    Raises:
        ServiceUnavailable: It is not known to be kept.
        InternalError: It is too large for NATS.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise InternalError(f"A message of {len(data)} bytes is too large for NATS.")
    try:
        await js.publish(subject, data, stream=stream, headers=headers)
    except APIError as error:
        if not _is_queued_already(error):
            raise ServiceUnavailable(f"The stream {stream} did not take a message: {error.description}") from error
    except (Error, OSError) as error:
        raise ServiceUnavailable(f"The stream {stream} did not answer.") from error


def _is_queued_already(error: APIError) -> bool:
    """Whether a queue refuses a message since its subject has one. A full disk, or a full stream, has the same code."""
    return error.err_code == _STORE_FAILED and error.description == _SUBJECT_FULL
