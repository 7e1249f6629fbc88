"""The real process: it starts, answers, stops when told, and loses nothing when killed."""

import asyncio
import hashlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from unit.file_store.rig import LINE, TENANT

from batchyard.common.contracts.files import CreateFile, File, ListFiles, OpenDownload, OpenPlace, Purpose
from batchyard.common.contracts.health import CheckFileStore, Health
from batchyard.common.contracts.uploads import AddPart, CompleteUpload, CreateUpload, OpenPart
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore, read
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings

START_SECONDS = 30.0
STOP_SECONDS = 15.0
MIB = 1 << 20


@asynccontextmanager
async def running(settings: Settings, log: Path, **environment: str) -> AsyncIterator[Process]:
    """The service as a process of its own, gone afterwards; it logs to `log`."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "batchyard.file_store"),
            env={
                **os.environ,
                "BATCHYARD_NATS_URL": settings.nats_url,
                "BATCHYARD_OBJECT_STORE": settings.object_store,
                **environment,
            },
            stderr=stderr,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "file-store.log"


def logged(log: Path) -> str:
    return log.read_text()


async def answering(client: CommandClient) -> Health:
    """Ask until the service listens."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                return await client.call("system", CheckFileStore())
            except ServiceUnavailable:
                await asyncio.sleep(0.02)


@pytest.fixture
def client(messaging: Messaging) -> CommandClient:
    return CommandClient(messaging.connection, timeout=5.0)


async def create(client: CommandClient) -> File:
    return await client.call(TENANT, CreateFile(filename="a.jsonl", purpose=Purpose.BATCH, content=LINE))


async def test_it_answers_when_ready_and_stops_cleanly(settings: Settings, log: Path, client: CommandClient) -> None:
    async with running(settings, log) as process:
        health = await answering(client)
        assert health.status == "ok"
        assert health.checks == {"nats": "ok", "jetstream": "ok", "object_store": "ok"}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), STOP_SECONDS) == 0, logged(log)


async def test_files_survive_a_kill(settings: Settings, log: Path, client: CommandClient, objects: ObjectStore) -> None:
    async with running(settings, log) as process:
        await answering(client)
        files = [await create(client) for _ in range(5)]
        process.kill()
        await process.wait()
    async with running(settings, log):
        await answering(client)
        assert (await client.call(TENANT, ListFiles(order="asc"))).data == files
        download = await client.call(TENANT, OpenDownload(file_id=files[0].id))
        assert await read(objects, download.object_key, max_bytes=100) == LINE.encode()


async def test_an_upload_opened_before_a_kill_is_claimed_after_it(
    settings: Settings, log: Path, client: CommandClient, objects: ObjectStore
) -> None:
    async with running(settings, log) as process:
        await answering(client)
        upload = await client.call(TENANT, OpenPlace())
        process.kill()
        await process.wait()
    await objects.put(upload.object_key, LINE.encode())
    async with running(settings, log):
        await answering(client)
        claim = CreateFile(filename="a.jsonl", purpose=Purpose.BATCH, object_key=upload.object_key)
        assert (await client.call(TENANT, claim)).id == upload.file_id


async def test_two_replicas_share_the_work(settings: Settings, client: CommandClient, tmp_path: Path) -> None:
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    async with running(settings, logs[0]) as first, running(settings, logs[1]) as second:
        await answering(client)
        files = []
        async with asyncio.timeout(START_SECONDS):
            while not all("file.created" in logged(log) for log in logs):
                files.append(await create(client))
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        codes = await asyncio.wait_for(asyncio.gather(first.wait(), second.wait()), STOP_SECONDS)
    assert list(codes) == [0, 0]
    assert len({file.id for file in files}) == len(files)


async def test_without_its_object_store_it_starts_and_says_what_is_missing(
    settings: Settings, log: Path, client: CommandClient, tmp_path: Path
) -> None:
    (tmp_path / "objects").write_text("a file where the folder should be")
    async with running(settings, log):
        health = await answering(client)
        assert health.status == "unhealthy"
        assert health.checks["jetstream"] == "ok"
        assert "object store" in health.checks["object_store"]
        assert (await client.call(TENANT, ListFiles())).data == []


async def test_an_object_store_that_cannot_be_is_a_configuration_error(settings: Settings, log: Path) -> None:
    async with running(settings, log, BATCHYARD_OBJECT_STORE="ftp://x") as process:
        assert await asyncio.wait_for(process.wait(), START_SECONDS) == 2
    assert "BATCHYARD_OBJECT_STORE" in logged(log)


async def test_a_wrong_setting_is_named(settings: Settings, log: Path) -> None:
    async with running(settings, log, BATCHYARD_SWEEP_INTERVAL="0") as process:
        assert await asyncio.wait_for(process.wait(), START_SECONDS) == 2
    assert "BATCHYARD_SWEEP_INTERVAL" in logged(log)


async def test_memory_does_not_grow_with_the_parts_that_are_joined(
    settings: Settings, log: Path, client: CommandClient, objects: ObjectStore
) -> None:
    size, count = 16 * MIB, 6
    digest = hashlib.md5()
    async with running(settings, log) as process:
        await answering(client)
        upload = await client.call(TENANT, CreateUpload(filename="a", purpose=Purpose.USER_DATA, bytes=size * count))
        part_ids = []
        for number in range(count):
            place = await client.call(TENANT, OpenPart(upload_id=upload.id))
            content = bytes([number]) * size
            digest.update(content)
            await objects.put(place.object_key, content)
            part = await client.call(TENANT, AddPart(upload_id=upload.id, object_key=place.object_key))
            part_ids.append(part.id)
        before = _peak(process.pid)
        complete = CompleteUpload(upload_id=upload.id, part_ids=tuple(part_ids), md5=digest.hexdigest(), wait=30)
        done = await client.call(TENANT, complete, timeout=40)
        assert done.status == "completed"
        assert _peak(process.pid) - before < 24 * MIB


def _peak(pid: int) -> int:
    """The most memory that a process has held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
