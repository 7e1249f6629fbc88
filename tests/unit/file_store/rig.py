"""The service in the test's own process: real NATS, a real folder, a clock turned by hand."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from batchyard.common.clock import ManualClock
from batchyard.common.contracts.access import Team
from batchyard.common.contracts.base import Command
from batchyard.common.contracts.files import CreateFile, ExpiresAfter, File, OpenPlace, Place, Purpose
from batchyard.common.contracts.uploads import AddPart, CompleteUpload, CreateUpload, OpenPart, Upload
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.mirror import Mirror
from batchyard.common.messaging.records import Records
from batchyard.common.objects import ObjectNotFound, ObjectStore
from batchyard.file_store.files import Files
from batchyard.file_store.quota import Quota
from batchyard.file_store.storage import StorageRecord
from batchyard.file_store.store import FileRecord
from batchyard.file_store.upkeep import Upkeep
from batchyard.file_store.upload import PartRecord, UploadLimits, UploadRecord
from batchyard.file_store.upload_upkeep import UploadUpkeep

R = TypeVar("R", bound=BaseModel)

TENANT = "team a/1"
OTHER = "team-b"
LINE = '{"custom_id": "1"}\n'
CLAIM_WITHIN = 86_400.0
LIMITS = UploadLimits(lifetime=3600, max_bytes=10_000, max_part_bytes=1_000, max_parts=12)


@dataclass(frozen=True)
class Rig:
    """Its parts, and the few steps that most tests begin with."""

    client: CommandClient
    files: Files
    upkeep: Upkeep
    upload_upkeep: UploadUpkeep
    records: Records[FileRecord]
    upload_records: Records[UploadRecord]
    part_records: Records[PartRecord]
    objects: ObjectStore
    clock: ManualClock
    quota: Quota
    storage: Records[StorageRecord]
    teams: Mirror[Team]

    async def call(self, command: Command[R], tenant: str = TENANT) -> R:
        return await self.client.call(tenant, command)

    async def upload(self, content: bytes = LINE.encode(), tenant: str = TENANT) -> Place:
        """Bytes in their place, as the gateway leaves them before it claims."""
        upload = await self.call(OpenPlace(), tenant)
        await self.objects.put(upload.object_key, content)
        return upload

    async def announce(self, size: int, filename: str = "notes.bin", purpose: Purpose = Purpose.USER_DATA) -> Upload:
        """An upload to which parts can be added."""
        return await self.call(CreateUpload(filename=filename, purpose=purpose, bytes=size))

    async def add(self, upload: Upload, content: bytes) -> str:
        """One part of an upload, stored and claimed as the gateway does it; its ID."""
        place = await self.call(OpenPart(upload_id=upload.id))
        await self.objects.put(place.object_key, content)
        part = await self.call(AddPart(upload_id=upload.id, object_key=place.object_key))
        assert part.id == place.part_id
        return part.id

    async def complete(self, upload: Upload, *part_ids: str, **more: Any) -> Upload:
        return await self.call(CompleteUpload(upload_id=upload.id, part_ids=part_ids, **more))

    async def keys(self, prefix: str = "") -> list[str]:
        """What lies in the object store."""
        return [info.key async for info in self.objects.list(prefix)]

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
