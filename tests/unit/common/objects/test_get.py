"""What every store promises of `get` and `stat`."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.common.objects import ObjectNotFound, ObjectStore, ObjectTooLarge, read
from support.streams import content

from .conftest import MIB


async def test_a_missing_object_is_not_found_at_the_first_step(store: ObjectStore, folder: str) -> None:
    missing = store.get(folder + "none")
    with pytest.raises(ObjectNotFound) as caught:
        await anext(missing)
    assert caught.value.key == folder + "none"
    with pytest.raises(ObjectNotFound):
        await anext(store.get(folder + "none", start=5))
    with pytest.raises(ObjectNotFound):
        await anext(store.get(folder + "none", length=0))
    with pytest.raises(ObjectNotFound):
        await store.stat(folder + "none")


async def test_a_folder_is_no_object(store: ObjectStore, folder: str) -> None:
    await store.put(folder + "a/b/c", b"1")
    for key in (folder + "a", folder + "a/b", folder + "a/b/c/d"):
        with pytest.raises(ObjectNotFound):
            await store.stat(key)
        with pytest.raises(ObjectNotFound):
            await read(store, key, max_bytes=1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 12), length=st.none() | st.integers(0, 12))
async def test_any_range_is_the_slice(store: ObjectStore, start: int, length: int | None) -> None:
    data = b"0123456789"
    await store.put("ranges/object", data)
    end = None if length is None else start + length
    assert await read(store, "ranges/object", start=start, length=length, max_bytes=10) == data[start:end]


async def test_ranges_of_an_empty_object_are_empty(store: ObjectStore, folder: str) -> None:
    await store.put(folder + "empty", b"")
    for start, length in [(0, None), (0, 5), (3, None), (3, 5), (0, 0)]:
        assert await read(store, folder + "empty", start=start, length=length, max_bytes=0) == b""


async def test_a_range_of_a_large_object(store: ObjectStore, folder: str) -> None:
    data = content(12 * MIB)
    await store.put(folder + "large", data)
    start, length = 5 * MIB - 7, 3 * MIB + 11
    expected = data[start : start + length]
    assert await read(store, folder + "large", start=start, length=length, max_bytes=length) == expected


async def test_negative_ranges_are_refused(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="negative"):
        await anext(store.get("object", start=-1))
    with pytest.raises(ValueError, match="negative"):
        await anext(store.get("object", length=-1))


async def test_read_stops_at_its_limit(store: ObjectStore, folder: str) -> None:
    await store.put(folder + "object", content(3 * MIB))
    with pytest.raises(ObjectTooLarge):
        await read(store, folder + "object", max_bytes=3 * MIB - 1)


async def test_streams_closed_early_are_free_again(store: ObjectStore, folder: str) -> None:
    """More of them than any store keeps connections: a leak would run dry."""
    await store.put(folder + "object", content(3 * MIB))
    for _ in range(200):
        async with aclosing(store.get(folder + "object")) as chunks:
            assert await anext(chunks)


async def test_a_cancelled_read_passes_the_cancellation(store: ObjectStore, folder: str) -> None:
    await store.put(folder + "object", content(3 * MIB))

    async def consume() -> None:
        async with aclosing(store.get(folder + "object")) as chunks:
            async for _ in chunks:
                await asyncio.sleep(0)

    for turns in range(12):
        reading = asyncio.create_task(consume())
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_streams_run_side_by_side(store: ObjectStore, folder: str) -> None:
    data = content(2 * MIB)
    await store.put(folder + "object", data)
    streams = [store.get(folder + "object") for _ in range(40)]
    firsts = [await anext(stream) for stream in streams]
    for first, stream in zip(firsts, streams, strict=True):
        rest = [chunk async for chunk in stream]
        assert first + b"".join(rest) == data
