"""What only the folder does: several processes on one, crashes, names that are both file and folder."""

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchyard.common.objects import InvalidObjectKey, LocalObjectStore, ObjectStoreUnavailable, local_files, read
from support.streams import chunked, content

from .conftest import MIB


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


@pytest.fixture
async def local(root: Path) -> AsyncIterator[LocalObjectStore]:
    store = LocalObjectStore(root)
    yield store
    await store.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def abandon(root: Path, name: str, age_s: float) -> Path:
    path = root / ".tmp" / name
    path.write_bytes(b"half an obj")
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))
    return path


async def test_the_folder_is_made_by_the_first_write(local: LocalObjectStore, root: Path) -> None:
    assert [info async for info in local.list("")] == []
    await local.delete(["a"])
    assert names(root.parent.parent) == []
    await local.put("a/b", b"1")
    assert (root / "objects/a/b").read_bytes() == b"1"


async def test_what_a_crashed_process_left_is_removed_at_start(local: LocalObjectStore, root: Path) -> None:
    await local.check()
    stale, fresh = abandon(root, "stale", age_s=120), abandon(root, "fresh", age_s=1)
    held = abandon(root, "held", age_s=7200)
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        another = LocalObjectStore(root)
        await another.check()
        await another.close()
    assert not stale.exists()
    assert fresh.exists()  # its writer may be about to lock it
    assert held.exists()  # its writer lives


async def test_a_put_that_takes_hours_is_not_stale(local: LocalObjectStore, root: Path) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield content(2 * MIB)
        started.set()
        await go_on.wait()

    putting = asyncio.create_task(local.put("slow", slow()))
    await started.wait()
    (growing,) = (root / ".tmp").iterdir()
    os.utime(growing, (0, 0))
    assert local_files.remove_stale(root) == 0
    go_on.set()
    assert (await putting).size == 2 * MIB


async def test_the_lock_of_a_killed_process_is_free(local: LocalObjectStore, root: Path) -> None:
    await local.check()
    script = """
import sys, time
from pathlib import Path
from batchyard.common.objects.local_files import GrowingFile
GrowingFile(Path(sys.argv[1])).write(b"half")
print("written", flush=True)
time.sleep(600)
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(root)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"written\n"
    (growing,) = (root / ".tmp").iterdir()
    os.utime(growing, (0, 0))
    assert local_files.remove_stale(root) == 0
    process.kill()
    await process.communicate()
    assert local_files.remove_stale(root) == 1


async def test_a_key_cannot_be_the_folder_of_another(local: LocalObjectStore, root: Path) -> None:
    await local.put("a/b", b"1")
    for key in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(InvalidObjectKey):
            await local.put(key, b"2")
        with pytest.raises(InvalidObjectKey):
            await local.concatenate(key, ["a/b"])
    assert [info.key async for info in local.list("")] == ["a/b"]
    assert names(root / ".tmp") == []


async def test_empty_folders_are_removed_and_in_nobody_s_way(local: LocalObjectStore, root: Path) -> None:
    await local.put("a/b/c/d", b"1")
    await local.put("a/x", b"1")
    await local.delete(["a/b/c/d"])
    assert names(root / "objects/a") == ["x"]
    (root / "objects/left/over").mkdir(parents=True)  # by a crash between two steps
    (root / "objects/left/over").rmdir()
    await local.put("left", b"1")
    assert (await local.stat("left")).size == 1


async def test_putting_and_deleting_in_one_folder_never_fails(root: Path) -> None:
    stores = [LocalObjectStore(root) for _ in range(4)]

    async def churn(store: LocalObjectStore, name: str) -> None:
        for _ in range(100):
            await store.put(f"shared/folder/{name}", b"1")
            await store.delete([f"shared/folder/{name}"])

    async with asyncio.TaskGroup() as group:
        for number, store in enumerate(stores):
            group.create_task(churn(store, str(number)))
    assert names(root / "objects") == []
    for store in stores:
        await store.close()


async def test_joining_works_where_the_kernel_cannot_copy(
    local: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    data = content(3 * MIB + 5)
    await local.put("a", chunked(data, 65536))
    await local.concatenate("b", ["a", "a"])
    assert await read(local, "b", max_bytes=7 * MIB) == data + data


async def test_a_folder_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalObjectStore(tmp_path / "file" / "store")
    with pytest.raises(ObjectStoreUnavailable, match="Not a directory"):
        await store.check()
    with pytest.raises(ObjectStoreUnavailable):
        await store.put("a", b"1")
    await store.close()


async def test_a_folder_that_went_away_is_unavailable(local: LocalObjectStore, root: Path) -> None:
    await local.check()
    (root / ".tmp").rmdir()
    with pytest.raises(ObjectStoreUnavailable):
        await local.check()
    with pytest.raises(ObjectStoreUnavailable):
        await local.put("a", content(3 * MIB))


async def test_a_full_disk_is_unavailable_and_leaves_nothing(
    local: LocalObjectStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await local.put("a", b"former")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ObjectStoreUnavailable, match="No space left"):
        await local.put("a", b"new")
    assert await read(local, "a", max_bytes=6) == b"former"
    assert names(root / ".tmp") == []


async def test_a_store_whose_folder_is_gone_knows_nothing_of_any_object(local: LocalObjectStore, root: Path) -> None:
    await local.put("a/b", b"1")
    aside = root.with_name("aside")
    root.rename(aside)
    for stand_in in (None, b""):
        if stand_in is not None:
            root.write_bytes(stand_in)
        with pytest.raises(ObjectStoreUnavailable):
            await local.stat("a/b")
        with pytest.raises(ObjectStoreUnavailable):
            await read(local, "a/b", max_bytes=9)
        with pytest.raises(ObjectStoreUnavailable):
            [info async for info in local.list("")]
        with pytest.raises(ObjectStoreUnavailable):
            await local.delete(["a/b"])
        with pytest.raises(ObjectStoreUnavailable):
            await local.put("a/c", b"2")
        with pytest.raises(ObjectStoreUnavailable):
            await local.concatenate("a/d", ["a/b"])
    root.unlink()
    aside.rename(root)
    assert await read(local, "a/b", max_bytes=9) == b"1"


@pytest.mark.parametrize("size", [1, 5 * 1024 * 1024])
async def test_a_store_that_goes_while_it_is_written_is_unavailable(tmp_path: Path, size: int) -> None:
    """As by a lost mount: where the folder was, there is something else."""
    root = tmp_path / "store"
    store = LocalObjectStore(root)
    await store.check()

    async def source() -> AsyncIterator[bytes]:
        yield b"x" * size
        root.rename(tmp_path / "aside")
        root.touch()
        yield b"y" * size

    with pytest.raises(ObjectStoreUnavailable):
        await store.put("a/b", source())
    root.unlink()
    (tmp_path / "aside").rename(root)
    assert (await store.put("a/b", b"z")).size == 1
    await store.close()
