"""The service in the test's own process: real NATS, a real folder, a clock turned by hand."""

from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from batchyard.common.clock import ManualClock
from batchyard.common.contracts.base import Command
from batchyard.common.contracts.files import CreateFile, ExpiresAfter, File, OpenUpload, Purpose, Upload
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.records import Records
from batchyard.common.objects import ObjectNotFound, ObjectStore
from batchyard.file_store.files import Files
from batchyard.file_store.store import FileRecord
from batchyard.file_store.upkeep import Upkeep

R = TypeVar("R", bound=BaseModel)

TENANT = "team a/1"
OTHER = "team-b"
LINE = '{"custom_id": "1"}\n'
CLAIM_WITHIN = 86_400.0


@dataclass(frozen=True)
class Rig:
    """Its parts, and the few steps that most tests begin with."""

    client: CommandClient
    files: Files
    upkeep: Upkeep
    records: Records[FileRecord]
    objects: ObjectStore
    clock: ManualClock

    async def call(self, command: Command[R], tenant: str = TENANT) -> R:
        return await self.client.call(tenant, command)

    async def upload(self, content: bytes = LINE.encode(), tenant: str = TENANT) -> Upload:
        """Bytes in their place, as the gateway leaves them before it claims."""
        upload = await self.call(OpenUpload(), tenant)
        await self.objects.put(upload.object_key, content)
        return upload

    async def create(
        self,
        filename: str = "input.jsonl",
        purpose: Purpose = Purpose.BATCH,
        *,
        tenant: str = TENANT,
        model: str | None = None,
        seconds: int | None = None,
    ) -> File:
        after = ExpiresAfter(seconds=seconds) if seconds is not None else None
        command = CreateFile(filename=filename, purpose=purpose, content=LINE, model=model, expires_after=after)
        return await self.call(command, tenant)

    async def has_bytes(self, object_key: str) -> bool:
        try:
            await self.objects.stat(object_key)
        except ObjectNotFound:
            return False
        return True
