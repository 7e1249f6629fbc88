"""What every store promises of `concatenate`."""

import asyncio
import tracemalloc

import pytest

from batchyard.common.objects import ObjectNotFound, ObjectStore, read
from support.streams import content

from .conftest import MIB, World


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [0, 0, 0],
        [1],
        [3, 0, 4],
        [5 * MIB],
        [5 * MIB - 1, 1],
        [6 * MIB, 7 * MIB],
        [1, 6 * MIB, 2, 11 * MIB, 0, 3],
        [6 * MIB, 1],
        [1, 5 * MIB + 1, 1, 5 * MIB, 12 * MIB],
        [3 * MIB] * 5,
    ],
    ids=str,
)
async def test_sources_are_joined_in_order(world: World, folder: str, sizes: list[int]) -> None:
    sources = [f"{folder}source/{number}" for number in range(len(sizes))]
    contents = [content(size, seed) for seed, size in enumerate(sizes)]
    for key, data in zip(sources, contents, strict=True):
        await world.store.put(key, data)
    info = await world.store.concatenate(folder + "joined", sources)
    assert (info.key, info.size) == (folder + "joined", sum(sizes))
    assert await read(world.store, folder + "joined", max_bytes=sum(sizes)) == b"".join(contents)
    assert (await world.store.stat(folder + "joined")).etag == info.etag
    assert [found.key async for found in world.store.list(folder + "source/")] == sources
    assert world.leftovers() == []


async def test_many_small_sources(store: ObjectStore, folder: str) -> None:
    sources = [f"{folder}{number:04}" for number in range(600)]
    for key in sources:
        await store.put(key, key.encode() * 300)
    await store.concatenate(folder + "joined", sources)
    expected = b"".join(key.encode() * 300 for key in sources)
    assert await read(store, folder + "joined", max_bytes=len(expected)) == expected


async def test_a_source_may_be_repeated_and_be_the_target(store: ObjectStore, folder: str) -> None:
    large = content(6 * MIB)
    await store.put(folder + "a", large)
    await store.put(folder + "b", b"b")
    await store.concatenate(folder + "a", [folder + "b", folder + "a", folder + "b", folder + "a"])
    joined = b"b" + large + b"b" + large
    assert await read(store, folder + "a", max_bytes=len(joined)) == joined


async def test_a_missing_source_is_named_and_leaves_nothing(world: World, folder: str) -> None:
    await world.store.put(folder + "a", content(6 * MIB))
    with pytest.raises(ObjectNotFound) as caught:
        await world.store.concatenate(folder + "joined", [folder + "a", folder + "none", folder + "a"])
    assert caught.value.key == folder + "none"
    with pytest.raises(ObjectNotFound):
        await world.store.stat(folder + "joined")
    assert world.leftovers() == []


@pytest.mark.parametrize("turns", [1, 4, 16, 60])
async def test_cancelled_anywhere_it_leaves_all_or_nothing(world: World, folder: str, turns: int) -> None:
    sources = [folder + "a", folder + "b", folder + "a"]
    await world.store.put(folder + "a", content(6 * MIB))
    await world.store.put(folder + "b", b"b")
    joining = asyncio.create_task(world.store.concatenate(folder + "joined", sources))
    for _ in range(turns):
        await asyncio.sleep(0)
    joining.cancel()
    await asyncio.gather(joining, return_exceptions=True)
    assert [i.size async for i in world.store.list(folder + "joined")] in ([], [12 * MIB + 1])
    assert world.leftovers() == []


async def test_memory_does_not_grow_with_the_sources(store: ObjectStore, folder: str) -> None:
    await store.put(folder + "small", content(4 * MIB))
    await store.put(folder + "large", content(24 * MIB))
    tracemalloc.start()
    await store.concatenate(folder + "joined", [folder + "small", folder + "large"] * 3 + [folder + "small"] * 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MIB  # S3: two parts of 5 MiB on their way, each with its pieces
    assert (await store.stat(folder + "joined")).size == 104 * MIB
