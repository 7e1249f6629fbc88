"""What is no HTTP, or too much of it, or comes too slowly: refused in the envelope, and hung up on."""

import asyncio
import json
from typing import Any

import pytest
from unit.gateway.rig import KEY, Served, Start, raw_request

LIMIT = 4096
AUTHORIZED = f"host: gateway\nauthorization: Bearer {KEY}\n"
SLOW = {"read_timeout": 0.3}


async def error_in(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Status and error of the one answer that comes before the connection ends."""
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"].startswith("req_")
    assert int(headers["content-length"]) == len(body)
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(status.split()[1]), error


@pytest.mark.parametrize(
    "head",
    [
        f"GET /v1/files?after={'x' * LIMIT} HTTP/1.1\n{AUTHORIZED}\n",
        f"GET /v1/files HTTP/1.1\n{AUTHORIZED}x-large: {'x' * LIMIT}\n\n",
        f"GET /v1/files HTTP/1.1\n{AUTHORIZED}" + "x-many: 1\n" * (LIMIT // 7) + "\n",
        f"GET /v1/files HTTP/1.1\n{AUTHORIZED}x-endless: {'x' * LIMIT}",
        "GET /" + "x" * LIMIT,
    ],
    ids=["URL", "field", "fields", "field without an end", "URL without an end"],
)
async def test_a_large_head_is_refused_without_waiting_for_its_end(start: Start, head: str) -> None:
    gateway = await start(max_head_bytes=LIMIT)
    async with raw_request(gateway.port, head) as reader:
        status, error = await error_in(reader)
    assert status == 431
    assert error["code"] == "request_head_too_large"
    assert "at most 4096 bytes" in error["message"]


async def test_trailers_are_part_of_the_head(start: Start) -> None:
    gateway = await start(max_head_bytes=LIMIT)
    head = f"POST /v1/batches HTTP/1.1\n{AUTHORIZED}transfer-encoding: chunked\n\n0\nx-trailer: {'x' * LIMIT}\n\n"
    async with raw_request(gateway.port, head) as reader:
        status, _ = await error_in(reader)
    assert status == 431


@pytest.mark.parametrize(
    "head",
    [
        f"POST /v1/batches HTTP/1.1\n{AUTHORIZED}transfer-encoding: chunked\n\n0\nx-endless: ",
        f"GET /health/liveness HTTP/1.1\n{AUTHORIZED}transfer-encoding: chunked\n\n0\nx-endless: ",
        f"POST /v1/batches HTTP/1.1\n{AUTHORIZED}transfer-encoding: chunked\n\n1;endless=",
    ],
    ids=["trailer", "trailer after the answer", "chunk extension"],
)
async def test_what_comes_after_the_head_without_an_end_is_hung_up_on(start: Start, head: str) -> None:
    gateway = await start(max_head_bytes=LIMIT)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(head.replace("\n", "\r\n").encode())
        async with asyncio.timeout(10):
            reading = asyncio.create_task(reader.read())
            while not reading.done():
                writer.write(b"x" * LIMIT)
                await asyncio.wait({reading}, timeout=0.01)
            assert b" 431 " in await reading
    finally:
        writer.close()


async def test_a_head_below_the_limit_is_read(start: Start) -> None:
    gateway = await start(max_head_bytes=LIMIT)
    response = await gateway.http.get("/health/liveness", headers={"x-large": "x" * (LIMIT - 500)})
    assert response.status_code == 200


@pytest.mark.usefixtures("services")
async def test_a_large_body_is_no_large_head(start: Start) -> None:
    gateway = await start(max_head_bytes=LIMIT)
    response = await gateway.upload(b'{"a": "%b"}\n' % (b"x" * 20 * LIMIT))
    assert response.status_code == 200


async def test_a_head_that_stops_arriving_is_a_408(start: Start) -> None:
    gateway = await start(**SLOW)
    async with raw_request(gateway.port, f"GET /v1/files HTTP/1.1\n{AUTHORIZED}") as reader:
        status, error = await error_in(reader)
    assert (status, error["code"]) == (408, "request_timeout")


async def test_a_second_head_has_its_own_time(start: Start) -> None:
    gateway = await start(**SLOW)
    head = f"GET /health/liveness HTTP/1.1\n{AUTHORIZED}\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        async with asyncio.timeout(10):
            writer.write(head.replace("\n", "\r\n").encode())
            assert await reader.readuntil(b'{"status":"ok"}')
            writer.write(b"GET ")
        status, _ = await error_in(reader)
    finally:
        writer.close()
        await writer.wait_closed()
    assert status == 408


async def test_a_connection_that_says_nothing_is_closed(start: Start) -> None:
    gateway = await start(**SLOW)
    async with raw_request(gateway.port, "") as reader, asyncio.timeout(10):
        assert await reader.read() == b""


async def test_a_broken_chunk_ends_an_upload(gateway: Served) -> None:
    head = f"POST /v1/files HTTP/1.1\n{AUTHORIZED}transfer-encoding: chunked\n"
    async with raw_request(
        gateway.port, f"{head}content-type: multipart/form-data; boundary=b\n\nnonsense\n"
    ) as reader:
        status, error = await error_in(reader)
    assert status == 400
    assert error["message"].startswith("Invalid HTTP request received.")
