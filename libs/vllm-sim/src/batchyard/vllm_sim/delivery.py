"""Sending an answer, whole, streamed or broken on purpose."""

import asyncio
import socket
import struct
from collections.abc import Iterable, Iterator
from itertools import islice

from aiohttp import web

from batchyard.vllm_sim.endpoints.streaming import DONE
from batchyard.vllm_sim.faults import FaultKind
from batchyard.vllm_sim.replies import JSON_HEADERS, STREAM_HEADERS, json_bytes
from batchyard.vllm_sim.work import JsonObject

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_WRITE_SIZE = 64 * 1024


async def hang() -> None:
    """Wait until cancelled, which happens when the client goes away."""
    await asyncio.get_running_loop().create_future()


def reset(request: web.Request) -> web.Response:
    """Reset the connection with RST. The response returned is for the caller to return; nobody receives it."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
    return web.Response(status=500)


async def send_body(
    request: web.Request, body: bytes, headers: dict[str, str], kind: FaultKind | None
) -> web.StreamResponse:
    """Return or send an answer of `body`, cut short or spoilt if the fault's kind says so."""
    if kind is FaultKind.BAD_JSON:
        body = body[: len(body) // 2]
    if kind is not FaultKind.TRUNCATE:
        return web.Response(body=body, headers={**JSON_HEADERS, **headers})
    response = web.StreamResponse(headers={**JSON_HEADERS, **headers})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _cut(request, response)


async def send_stream(
    request: web.Request,
    steps: Iterator[list[JsonObject]],
    headers: dict[str, str],
    kind: FaultKind | None,
    *,
    step_seconds: float,
    step_count: int,
) -> web.StreamResponse:
    """Send server-sent events, one step every `step_seconds`, broken in the middle if the fault's kind says so."""
    response = web.StreamResponse(headers={**STREAM_HEADERS, **headers})
    await response.prepare(request)
    frames: Iterable[bytes] = (b"".join(map(_frame, step)) for step in steps)
    if kind in {FaultKind.TRUNCATE, FaultKind.BAD_JSON}:
        frames = islice(frames, 1 + step_count // 2)
    pending = bytearray()
    for frame in frames:
        pending += frame
        if step_seconds or len(pending) > _WRITE_SIZE:
            await response.write(bytes(pending))
            pending.clear()
        if step_seconds:
            await asyncio.sleep(step_seconds)
    if kind is FaultKind.TRUNCATE:
        await response.write(bytes(pending))
        return _cut(request, response)
    pending += b'data: {"id":\n\n' if kind is FaultKind.BAD_JSON else DONE
    await response.write_eof(bytes(pending))
    return response


def _frame(chunk: JsonObject) -> bytes:
    return b"data: " + json_bytes(chunk) + b"\n\n"


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return response
