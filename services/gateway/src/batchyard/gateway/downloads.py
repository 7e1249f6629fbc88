"""Downloads: a file's bytes from the object store to the client, a chunk at a time."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from batchyard.common.contracts.files import Download, OpenDownload
from batchyard.common.errors import NotFound
from batchyard.common.objects import ObjectNotFound
from batchyard.gateway.byte_range import ByteRange, parse_range
from batchyard.gateway.caller import Caller
from batchyard.gateway.multipart import clean_filename

_MEDIA_TYPE = "application/octet-stream"
_FALLBACK_NAME = "file"
_MAX_CHARACTERS = 120  # file systems have 255 bytes for a name, and clients a few thousand for a header
_TAIL = 20


async def download_file(request: Request, caller: Caller, file_id: str) -> Response:
    """The content of a file, or the part of it that `Range` asks for.

    The first chunk is read before the status line is sent, so that bytes that are gone are an error and not a
    broken download.

    Raises:
        NotFound: There is no such file (any more).
        RangeNotSatisfiable: See `parse_range`.
    """
    download = await caller.call(OpenDownload(file_id=file_id))
    headers = _headers(download)
    if _is_unchanged(request, headers["etag"]):
        return Response(status_code=304, headers={"etag": headers["etag"]})
    if request.method == "HEAD":
        return Response(headers={**headers, "content-length": str(download.file.bytes)}, media_type=_MEDIA_TYPE)
    wanted = _wanted(request, download, headers["etag"])
    chunks = caller.gateway.objects.get(
        download.object_key,
        start=wanted.start if wanted else 0,
        length=wanted.length if wanted else None,
    )
    try:
        first = await anext(chunks, b"")
    except ObjectNotFound as error:
        raise NotFound(f"No such File object: {file_id}", param="id") from error
    if wanted:
        headers |= {"content-range": wanted.content_range, "content-length": str(wanted.length)}
    else:
        headers |= {"content-length": str(download.file.bytes)}
    return ContentResponse(first, chunks, 206 if wanted else 200, headers)


class ContentResponse(StreamingResponse):
    """Chunks from the store; the store's file or connection is freed however the response ends."""

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        status_code: int,
        headers: dict[str, str],
        media_type: str = _MEDIA_TYPE,
    ) -> None:
        super().__init__(self._chunks(first), status_code, headers, media_type)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)

    async def _chunks(self, first: bytes) -> AsyncGenerator[bytes, None]:
        if first:
            yield first
        async for chunk in self._rest:
            yield chunk


def content_disposition(filename: str) -> str:
    """An `attachment` header with a name that any client can save under.

    A plain ASCII name for old clients, the true one as RFC 8187 has it. A publisher on NATS may name a file anything:
    of that, directories and control characters are left out, and the middle of a name too long for a file system.
    """
    name = clean_filename(filename)
    if not name.strip("."):
        name = _FALLBACK_NAME
    elif len(name) > _MAX_CHARACTERS:
        name = f"{name[: _MAX_CHARACTERS - _TAIL]}…{name[-_TAIL:]}"
    plain = "".join(c if c.isascii() and c not in '"\\%' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _headers(download: Download) -> dict[str, str]:
    return {
        "accept-ranges": "bytes",
        "content-disposition": content_disposition(download.file.filename),
        "etag": '"{}"'.format(download.etag.replace('"', "")),
        "x-content-type-options": "nosniff",
    }


def _is_unchanged(request: Request, etag: str) -> bool:
    known = request.headers.get("if-none-match")
    if known is None:
        return False
    return known.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in known.split(","))


def _wanted(request: Request, download: Download, etag: str) -> ByteRange | None:
    condition = request.headers.get("if-range")
    if condition is not None and condition.strip() != etag:
        return None  # the client holds part of something else: it needs the whole
    return parse_range(request.headers.get("range"), download.file.bytes)
