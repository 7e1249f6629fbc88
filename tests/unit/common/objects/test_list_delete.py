"""What every store promises of `list` and `delete`."""

from contextlib import aclosing

import pytest

from batchyard.common.objects import ObjectNotFound, ObjectStore

from .conftest import World


async def keys(store: ObjectStore, prefix: str) -> list[str]:
    return [info.key async for info in store.list(prefix)]


async def put_all(store: ObjectStore, names: list[str]) -> None:
    for name in names:
        await store.put(name, name.encode())


async def test_a_listing_is_in_key_order_with_sizes(store: ObjectStore, folder: str) -> None:
    names = [folder + name for name in ("b", "a/z", "a/b/c", "B", "0", "a/b/0", "c=1", "_", "a/.x")]
    await put_all(store, names)
    infos = [info async for info in store.list(folder)]
    assert [info.key for info in infos] == sorted(names)
    assert [info.size for info in infos] == [len(name) for name in sorted(names)]
    for info in infos:
        assert info.etag == (await store.stat(info.key)).etag


async def test_folders_sort_among_names_that_continue_them(world: World, folder: str) -> None:
    names = sorted(folder + name for name in ("a/x", "a-b/x", "a.b", "a=b", "a0/x", "a-"))
    await put_all(world.store, names)
    found = await keys(world.store, folder)
    if world.name == "seaweedfs":  # it sorts segment by segment: a/x before a-b/x
        assert found == sorted(names, key=lambda name: name.split("/"))
    else:
        assert found == names


async def test_a_prefix_is_one_of_the_string(store: ObjectStore, folder: str) -> None:
    names = [folder + name for name in ("ab", "ab.c", "abc/d", "abd/e/f", "b", "bab")]
    await put_all(store, names)
    assert await keys(store, folder + "ab") == names[:4]
    assert await keys(store, folder + "abc") == names[2:3]
    assert await keys(store, folder + "abc/") == names[2:3]
    assert await keys(store, folder + "ab/") == []
    assert await keys(store, folder + "abd/e/f") == names[3:4]
    assert await keys(store, folder + "abd/e/f/") == []
    assert await keys(store, folder + "none/at/all") == []
    assert await keys(store, folder[:-1]) == names
    assert set(names) <= set(await keys(store, ""))


async def test_more_objects_than_a_page(store: ObjectStore, folder: str) -> None:
    names = [f"{folder}{number % 3}/{number:05}" for number in range(2101)]
    await put_all(store, names)
    assert await keys(store, folder) == sorted(names)
    async with aclosing(store.list(folder)) as listing:
        assert (await anext(listing)).key == min(names)
    await store.delete(iter(names))
    assert await keys(store, folder) == []


async def test_deleting_what_is_not_there_is_fine(store: ObjectStore, folder: str) -> None:
    await put_all(store, [folder + "a", folder + "b/c"])
    await store.delete([])
    await store.delete([folder + "none", folder + "a", folder + "a", folder + "b", folder + "b/c/d"])
    assert await keys(store, folder) == [folder + "b/c"]
    with pytest.raises(ObjectNotFound):
        await store.stat(folder + "a")


async def test_a_deleted_key_can_be_put_again(store: ObjectStore, folder: str) -> None:
    for _ in range(3):
        await store.put(folder + "a/b/c", b"1")
        await store.delete([folder + "a/b/c"])
    await store.put(folder + "a/b", b"now an object")
    assert await keys(store, folder) == [folder + "a/b"]


async def test_the_longest_key_is_stored(store: ObjectStore, folder: str) -> None:
    key = folder + "/".join(["s" * 200] * 4)
    key += "/" + "e" * (900 - len(key) - 1)
    assert len(key) == 900
    await store.put(key, b"1")
    assert await keys(store, key[:-1]) == [key]
    assert (await store.stat(key)).size == 1
