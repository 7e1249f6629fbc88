"""Request bodies, read no faster than they are used and no further than they may be."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request

from batchyard.common.errors import InvalidRequest, PayloadTooLarge
from batchyard.gateway.errors import RequestTimeout, UnsupportedEncoding
from batchyard.gateway.settings import GatewaySettings

_SLOWEST = 1024  # bytes a second


def declared_length(request: Request) -> int | None:
    """The `Content-Length` in bytes; None for a chunked body."""
    value = request.headers.get("content-length")
    return int(value) if value is not None and value.isdecimal() else None


def check_encoding(request: Request) -> None:
    """Raise UnsupportedEncoding for a compressed body: what is stored is what was sent, and its size is known."""
    for header in request.headers.getlist("content-encoding"):
        for encoding in header.split(","):
            if encoding.strip().lower() not in ("", "identity"):
                raise UnsupportedEncoding(
                    f"Unsupported Content-Encoding '{encoding.strip()[:64]}': please send the body as it is.",
                    param="Content-Encoding",
                    code="unsupported_content_encoding",
                )


async def body_chunks(request: Request, read_timeout: float) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. While nobody asks for the next chunk the client is held back by TCP.

    Raises:
        UnsupportedEncoding: See `check_encoding`.
        RequestTimeout: Nothing came for `read_timeout` seconds, or after as long a wait in all, hardly anything.
        ClientDisconnect: The client is gone.
    """
    check_encoding(request)
    clock = asyncio.get_running_loop().time
    waited, received = 0.0, 0
    async with aclosing(request.stream()) as stream:
        while True:
            asked_at = clock()
            try:
                async with asyncio.timeout(read_timeout):
                    chunk = await anext(stream, b"")
            except TimeoutError as error:
                raise RequestTimeout(
                    f"The request body stopped arriving for {read_timeout:g} seconds before it was complete."
                ) from error
            if not chunk:
                return
            # Only what the client takes counts: while the store is slow, nobody waits for the client.
            waited += clock() - asked_at
            received += len(chunk)
            if waited > read_timeout and received < waited * _SLOWEST:
                raise RequestTimeout(f"The request body arrives too slowly: at less than {_SLOWEST} bytes a second.")
            yield chunk


async def read_body(request: Request, *, max_bytes: int, read_timeout: float, may_be_empty: bool = False) -> bytes:
    """A whole small body.

    Raises:
        InvalidRequest: There is none, and there has to be one.
        PayloadTooLarge: It has more than `max_bytes`.
        UnsupportedEncoding, RequestTimeout, ClientDisconnect: See `body_chunks`.
    """
    too_large = PayloadTooLarge(f"The request body is too large: at most {max_bytes} bytes are accepted.")
    if (declared_length(request) or 0) > max_bytes:
        raise too_large
    body = bytearray()
    async with aclosing(body_chunks(request, read_timeout)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                raise too_large
    if not body and not may_be_empty:
        raise InvalidRequest("The request body is empty; expected a JSON object.", code="invalid_json")
    return bytes(body)


async def read_json(request: Request, settings: GatewaySettings) -> bytes:
    """The body of a request that is not an upload. Raises as `read_body` does."""
    return await read_body(request, max_bytes=settings.max_body_bytes, read_timeout=settings.read_timeout)
