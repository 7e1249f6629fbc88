"""What every store promises of `put`."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from batchyard.common.objects import InvalidObjectKey, ObjectNotFound, ObjectStore, ObjectTooLarge, read
from support.streams import HeldSource, SourceFailed, chunked, content, endless, failing

from .conftest import MIB, World


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 20 * MIB])
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "bytes"])
async def test_an_object_comes_back_as_it_was_put(store: ObjectStore, folder: str, size: int, streamed: bool) -> None:
    data = content(size)
    info = await store.put(folder + "object", chunked(data, 100_000) if streamed else data)
    assert (info.key, info.size) == (folder + "object", size)
    assert await read(store, folder + "object", max_bytes=size) == data
    described = await store.stat(folder + "object")
    assert (described.key, described.size, described.etag) == (info.key, info.size, info.etag)
    assert info.modified_at.tzinfo is UTC
    assert abs(info.modified_at - described.modified_at) < timedelta(seconds=5)
    assert abs(info.modified_at - datetime.now(UTC)) < timedelta(seconds=60)


async def test_tiny_and_empty_chunks_make_one_object(store: ObjectStore, folder: str) -> None:
    data = content(200_000)

    async def source() -> AsyncIterator[bytes]:
        async for chunk in chunked(data, 3):
            yield chunk
            yield b""

    await store.put(folder + "tiny", source())
    assert await read(store, folder + "tiny", max_bytes=len(data)) == data


async def test_memory_does_not_grow_with_the_object(store: ObjectStore, folder: str) -> None:
    chunk = content(MIB)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield chunk

    tracemalloc.start()
    await store.put(folder + "large", source())
    size = 0
    async for part in store.get(folder + "large"):
        size += len(part)
        assert len(part) <= MIB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 64 * MIB
    assert peak < 28 * MIB  # S3: two parts of 5 MiB on their way, one waiting, one filling, its copy


async def test_until_a_put_returns_readers_see_the_former_object(store: ObjectStore, folder: str) -> None:
    key = folder + "object"
    await store.put(key, b"former")
    source = HeldSource(content(12 * MIB))
    async with asyncio.TaskGroup() as group:
        putting = group.create_task(store.put(key, source))
        await source.drained.wait()
        assert await read(store, key, max_bytes=6) == b"former"
        assert [info.size async for info in store.list(folder)] == [6]
        source.let_go.set()
        await putting
        assert (await store.stat(key)).size == 12 * MIB


async def test_until_a_put_returns_a_new_object_does_not_exist(store: ObjectStore, folder: str) -> None:
    source = HeldSource(content(12 * MIB))
    async with asyncio.TaskGroup() as group:
        putting = group.create_task(store.put(folder + "new", source))
        await source.drained.wait()
        with pytest.raises(ObjectNotFound):
            await store.stat(folder + "new")
        assert [info async for info in store.list(folder)] == []
        source.let_go.set()
        await putting


async def test_a_reader_finishes_the_object_that_it_began(store: ObjectStore, folder: str) -> None:
    former = content(8 * MIB, seed=1)
    await store.put(folder + "object", former)
    reading = store.get(folder + "object")
    seen = await anext(reading)
    await store.put(folder + "object", b"new")
    async for chunk in reading:
        seen += chunk
    assert seen == former
    assert await read(store, folder + "object", max_bytes=3) == b"new"


@pytest.mark.parametrize("size", [0, 100, 12 * MIB])
async def test_a_failing_source_leaves_the_former_object(world: World, folder: str, size: int) -> None:
    await world.store.put(folder + "object", b"former")
    with pytest.raises(SourceFailed):
        await world.store.put(folder + "object", failing(content(size)))
    assert await read(world.store, folder + "object", max_bytes=6) == b"former"
    assert world.leftovers() == []


async def test_a_source_s_own_os_error_passes_through(world: World, folder: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield content(6 * MIB)
        raise ConnectionResetError("the uploader left")

    with pytest.raises(ConnectionResetError, match="the uploader left"):
        await world.store.put(folder + "object", source())
    assert world.leftovers() == []


@pytest.mark.parametrize("size", [0, 100, 12 * MIB])
async def test_a_cancelled_put_leaves_nothing(world: World, folder: str, size: int) -> None:
    source = HeldSource(content(size))
    putting = asyncio.create_task(world.store.put(folder + "object", source))
    await source.drained.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert [info async for info in world.store.list(folder)] == []
    assert world.leftovers() == []
    assert source.closed


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 13, 50, 200])
async def test_a_put_cancelled_anywhere_leaves_all_or_nothing(world: World, folder: str, turns: int) -> None:
    data = content(11 * MIB)
    putting = asyncio.create_task(world.store.put(folder + "object", chunked(data, MIB)))
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    assert [info.size async for info in world.store.list(folder)] in ([], [len(data)])
    assert world.leftovers() == []


@pytest.mark.parametrize("limit", [0, 1, 5 * MIB, 12 * MIB])
async def test_max_bytes_is_the_largest_size_allowed(world: World, folder: str, limit: int) -> None:
    assert (await world.store.put(folder + "fits", content(limit), max_bytes=limit)).size == limit
    with pytest.raises(ObjectTooLarge) as caught:
        await world.store.put(folder + "too-large", chunked(content(limit + 1), 65536), max_bytes=limit)
    assert (caught.value.key, caught.value.max_bytes) == (folder + "too-large", limit)
    assert [info.key async for info in world.store.list(folder)] == [folder + "fits"]
    assert world.leftovers() == []


async def test_max_bytes_is_noticed_while_streaming(store: ObjectStore, folder: str) -> None:
    seen: list[int] = []
    with pytest.raises(ObjectTooLarge):
        await store.put(folder + "object", endless(bytes(65536), seen), max_bytes=MIB)
    assert sum(seen) == MIB + 65536


async def test_a_source_that_is_too_large_is_closed(store: ObjectStore, folder: str) -> None:
    source = HeldSource(content(MIB))
    with pytest.raises(ObjectTooLarge):
        await store.put(folder + "object", source, max_bytes=100_000)
    assert source.closed


async def test_of_concurrent_puts_one_wins_whole(store: ObjectStore, folder: str) -> None:
    contents = [content(6 * MIB, seed) for seed in range(4)]
    async with asyncio.TaskGroup() as group:
        for data in contents:
            group.create_task(store.put(folder + "object", chunked(data, 65536)))
    assert await read(store, folder + "object", max_bytes=6 * MIB) in contents
    assert len([info async for info in store.list(folder)]) == 1


async def test_many_puts_at_once(store: ObjectStore, folder: str) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(store.put(f"{folder}{number % 7}/{number}", str(number).encode()))
    for number in range(100):
        assert await read(store, f"{folder}{number % 7}/{number}", max_bytes=9) == str(number).encode()


async def test_the_etag_changes_with_the_content(store: ObjectStore, folder: str) -> None:
    first = await store.put(folder + "object", b"one")
    second = await store.put(folder + "object", b"two")
    assert first.etag
    assert second.etag not in {"", first.etag}


async def test_invalid_keys_are_refused_everywhere(store: ObjectStore) -> None:
    calls = [
        store.put("../x", b""),
        store.stat("../x"),
        store.delete(["fine", "../x"]),
        store.concatenate("../x", []),
        store.concatenate("fine", ["../x"]),
        anext(store.get("../x")),
        anext(store.list("../x")),
    ]
    for call in calls:
        with pytest.raises(InvalidObjectKey):
            await call
