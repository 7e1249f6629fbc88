"""The real services in the test's own loop: real NATS and real HTTP between them, no processes to wait for."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from batchyard.batch_runner import app as batch_runner
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common.contracts.base import Command
from batchyard.common.contracts.batches import Batch, GetBatch
from batchyard.common.contracts.files import CreateFile, File, OpenDownload, OpenPlace, Purpose
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore, read
from batchyard.common.settings import Settings
from batchyard.file_store import app as file_store
from batchyard.file_store.settings import FileStoreSettings

Serve = Callable[[asyncio.Event], Awaitable[None]]


@asynccontextmanager
async def running(serve: Serve) -> AsyncIterator[asyncio.Task[None]]:
    """One service as a task; stopped as by SIGTERM at the end."""
    stop = asyncio.Event()

    async def run() -> None:
        await serve(stop)

    task = asyncio.create_task(run())
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 30)


@asynccontextmanager
async def file_store_and_runner(settings: Settings, **runner: Any) -> AsyncIterator[None]:
    common = settings.model_dump(exclude_unset=True)
    async with (
        running(file_store.serve(FileStoreSettings(**common))),
        running(batch_runner.serve(RunnerSettings(**{**common, **runner}))),
    ):
        yield


class Caller:
    """A client of the services over NATS, for one tenant."""

    def __init__(self, commands: CommandClient, objects: ObjectStore, tenant: str = "default") -> None:
        self._commands = commands
        self._objects = objects
        self.tenant = tenant

    async def __call__(self, command: Command[Any]) -> Any:
        return await self._commands.call(self.tenant, command)

    async def ready(self, *probes: Command[Any]) -> None:
        """Wait until the services behind `probes` answer."""
        async with asyncio.timeout(20):
            for probe in probes:
                while True:
                    try:
                        if (await self(probe)).status == "ok":
                            break
                    except ServiceUnavailable:
                        pass
                    await asyncio.sleep(0.02)

    async def upload(
        self, content: bytes, *, model: str | None = None, filename: str = "in.jsonl", lines: int | None = None
    ) -> File:
        place = await self(OpenPlace())
        await self._objects.put(place.object_key, content)
        command = CreateFile(
            filename=filename, purpose=Purpose.BATCH, object_key=place.object_key, model=model, lines=lines
        )
        file: File = await self(command)
        return file

    async def content(self, file_id: str | None) -> list[Any]:
        """The lines of a result file, parsed; none for a file there is none of."""
        if file_id is None:
            return []
        download = await self(OpenDownload(file_id=file_id))
        text = await read(self._objects, download.object_key, max_bytes=10**9)
        return [json.loads(line) for line in text.splitlines()]

    async def until(self, batch_id: str, condition: Callable[[Batch], bool], timeout: float = 60) -> Batch:
        """The batch, once it is as wanted."""
        async with asyncio.timeout(timeout):
            while True:
                batch: Batch = await self(GetBatch(batch_id=batch_id))
                if condition(batch):
                    return batch
                await asyncio.sleep(0.02)

    async def ended(self, batch_id: str, timeout: float = 60) -> Batch:
        return await self.until(batch_id, lambda batch: batch.status.is_terminal, timeout)
