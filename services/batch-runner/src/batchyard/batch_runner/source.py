"""Where the lines of a batch lie: in a file, or in a place of which a file could be made."""

import hashlib
from dataclasses import dataclass

from batchyard.batch_runner.wish import check_purpose, endpoint_of
from batchyard.common.contracts.batches import BatchWish, CreateBatch
from batchyard.common.contracts.files import OpenDownload, OpenPlace
from batchyard.common.errors import InvalidRequest, ServiceUnavailable
from batchyard.common.ids import encode_id
from batchyard.common.inline_requests import request_lines
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore, ObjectStoreUnavailable


@dataclass(frozen=True, slots=True)
class Source:
    """The file with the lines: its public ID, where its bytes are, the model that it is for, and how much it holds."""

    file_id: str
    object_key: str
    model: str | None
    bytes: int
    lines: int | None


async def opened(tenant: str, wish: BatchWish, commands: CommandClient) -> Source | None:
    """The file that the wish names; None when it names a place.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: It has another purpose.
    """
    if wish.input_file_id is None:
        return None
    download = await commands.call(tenant, OpenDownload(file_id=wish.input_file_id))
    check_purpose(wish.input_file_id, download.file)
    file_id = encode_id("file", download.raw_id, download.model)
    return Source(file_id, download.object_key, download.model, download.file.bytes, download.lines)


def encoded(wish: BatchWish) -> bytes:
    """The lines that came in the command. Raises InvalidRequest for a request that JSON cannot say."""
    assert wish.requests is not None
    try:
        return request_lines(wish.requests, endpoint_of(wish))
    except ValueError as error:
        raise InvalidRequest(f"Invalid 'requests': {error}.", param="requests", code="invalid_value") from error


async def placed(tenant: str, wish: CreateBatch, commands: CommandClient, objects: ObjectStore) -> CreateBatch:
    """The same wish with its `requests` in the object store; one whose lines are there already is left as it is.

    A place that nobody claims is swept. Raises InvalidRequest as `encoded` does.
    """
    if wish.requests is None:
        return wish
    lines = encoded(wish)
    place = await commands.call(tenant, OpenPlace())
    try:
        await objects.put(place.object_key, lines)
    except ObjectStoreUnavailable as error:
        raise ServiceUnavailable("The object store did not answer. Please retry shortly.") from error
    digest = hashlib.sha256(lines).hexdigest()
    return wish.model_copy(
        update={
            "requests": None,
            "upload_key": place.object_key,
            "input_digest": digest,
            "input_bytes": len(lines),
            "input_lines": len(wish.requests),
        }
    )
