"""What only an S3 server does: refuse, be away, hang, stumble."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from pydantic import SecretStr

from batchyard.common.objects import ObjectStoreUnavailable, ObjectTooLarge, minio_upload, read
from batchyard.common.objects.minio import MinioObjectStore
from batchyard.common.objects.minio_client import MinioConfig
from batchyard.common.tasks import end
from support.streams import chunked, content

from .conftest import MIB, unfinished_uploads

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def opened(config: MinioConfig, **changes: object) -> AsyncIterator[MinioObjectStore]:
    store = MinioObjectStore(replace(config, **changes))  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


async def every_call_is_unavailable(store: MinioObjectStore, secret: str = "hunter22") -> None:
    calls = [
        store.check(),
        store.put("a", b"1"),
        store.put("a", content(6 * MIB)),
        store.stat("a"),
        store.delete(["a"]),
        store.concatenate("a", ["b", "c"]),
        anext(store.get("a")),
        anext(store.list("")),
    ]
    for call in calls:
        with pytest.raises(ObjectStoreUnavailable) as caught:
            await call
        assert str(caught.value)
        assert secret not in str(caught.value)


async def test_wrong_credentials_are_unavailable_without_naming_the_secret(s3_config: MinioConfig) -> None:
    async with opened(s3_config, secret_key=SecretStr("hunter22")) as store:
        await every_call_is_unavailable(store)
    async with opened(s3_config, access_key="nobody", secret_key=SecretStr("hunter22")) as store:
        await every_call_is_unavailable(store)


async def test_a_server_that_is_away_is_unavailable(s3_config: MinioConfig) -> None:
    async with opened(s3_config, endpoint="http://127.0.0.1:1", retries=0) as store:
        await every_call_is_unavailable(store)


async def test_a_server_that_hangs_is_unavailable(s3_config: MinioConfig) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async with serving(hang) as endpoint, opened(s3_config, endpoint=endpoint, retries=0, read_timeout=0.1) as store:
        await every_call_is_unavailable(store)


async def test_a_server_that_is_no_s3_server_is_unavailable(s3_config: MinioConfig) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    async with serving(greet) as endpoint, opened(s3_config, endpoint=endpoint, retries=0) as store:
        with pytest.raises(ObjectStoreUnavailable, match="not answer like an S3 server"):
            await anext(store.get("a"))


async def test_a_server_that_stumbles_is_asked_again(s3_config: MinioConfig) -> None:
    asked = 0

    async def stumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await request(reader)
        if asked < 3:
            writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            writer.write(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
        await writer.drain()
        writer.close()

    async with serving(stumble) as endpoint, opened(s3_config, endpoint=endpoint) as store:
        assert (await store.put("a", b"12345")).etag == "e"
    assert asked == 3


async def test_a_body_cut_short_is_unavailable(s3_config: MinioConfig) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        await writer.drain()
        writer.close()

    async with serving(cut) as endpoint, opened(s3_config, endpoint=endpoint) as store:
        with pytest.raises(ObjectStoreUnavailable):
            await read(store, "a", max_bytes=1000)


async def test_a_missing_bucket_is_unavailable_until_it_is_made(s3_config: MinioConfig) -> None:
    async with opened(s3_config, bucket="made-later", create_bucket=False) as store:
        with pytest.raises(ObjectStoreUnavailable, match="made-later"):
            await store.check()
        async with opened(s3_config, bucket="made-later") as maker:
            await maker.check()
            await maker.check()
        await store.check()
        assert [info async for info in store.list("")] == []
    assert unfinished_uploads(replace(s3_config, bucket="made-later")) == []


async def test_more_parts_than_s3_has_are_too_large(s3_config: MinioConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio_upload, "MAX_PARTS", 2)
    async with opened(s3_config) as store:
        with pytest.raises(ObjectTooLarge) as caught:
            await store.put("parts/too-many", chunked(content(11 * MIB), MIB))
    assert caught.value.max_bytes == 10 * MIB
    assert unfinished_uploads(s3_config) == []


async def test_streams_beyond_the_limit_wait_for_one_to_end(s3_config: MinioConfig) -> None:
    async with opened(s3_config, max_streams=2) as store:
        await store.put("streams/object", content(3 * MIB))
        streams = [store.get("streams/object") for _ in range(2)]
        for stream in streams:
            await anext(stream)
        third = asyncio.create_task(read(store, "streams/object", max_bytes=3 * MIB))
        await store.stat("streams/object")  # other calls go on
        assert not third.done()
        for stream in streams:
            await stream.aclose()
        assert len(await third) == 3 * MIB


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[str]:
    """A TCP server on the loopback interface that answers as it is told. It leaves no connection open."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await handle(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await end(connections)


async def request(reader: asyncio.StreamReader) -> None:
    """Read one request with a short body."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
