"""The service's parts, put together as `app` does."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from unit.file_store.rig import CLAIM_WITHIN, LIMITS, Rig

from batchyard.common.clock import ManualClock
from batchyard.common.contracts.access import Team
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.mirror import Mirror
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.teams import Teams
from batchyard.common.messaging.topology import FILES_BUCKET, PARTS_BUCKET, STORAGE_BUCKET, TEAMS_BUCKET, UPLOADS_BUCKET
from batchyard.common.objects import LocalObjectStore, ObjectStore
from batchyard.common.service import Messaging
from batchyard.file_store.files import Files
from batchyard.file_store.handlers import SERVICE, command_router
from batchyard.file_store.quota import Quota
from batchyard.file_store.storage import StorageRecord
from batchyard.file_store.store import FileRecord
from batchyard.file_store.upkeep import Upkeep
from batchyard.file_store.upload import PartRecord, UploadRecord
from batchyard.file_store.upload_upkeep import UploadUpkeep
from batchyard.file_store.uploads import Uploads


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    store = LocalObjectStore(tmp_path / "objects")
    yield store
    await store.close()


@pytest.fixture
async def rig(messaging: Messaging, objects: ObjectStore) -> AsyncIterator[Rig]:
    records = Records(messaging.js, FILES_BUCKET, FileRecord)
    clock = ManualClock(time.time())  # objects and IDs are stamped by the real one
    upload_records = Records(messaging.js, UPLOADS_BUCKET, UploadRecord)
    storage = Records(messaging.js, STORAGE_BUCKET, StorageRecord)
    teams: Mirror[Team] = Mirror(TEAMS_BUCKET, Team)
    quota = Quota(storage, records, upload_records, Teams(teams), clock)
    files = Files(records, objects, clock, CLAIM_WITHIN, quota)
    part_records = Records(messaging.js, PARTS_BUCKET, PartRecord)
    uploads = Uploads(upload_records, part_records, files, objects, clock, LIMITS, 1024)
    health = HealthChecks(SERVICE, {"object_store": objects.check})
    messaging.broker.include_router(command_router(files, uploads, health))
    await messaging.broker.start()
    yield Rig(
        client=CommandClient(messaging.connection, timeout=5.0),
        files=files,
        upkeep=Upkeep(files, records, objects, clock, CLAIM_WITHIN),
        upload_upkeep=UploadUpkeep(upload_records, part_records, files, objects, clock, CLAIM_WITHIN),
        records=records,
        upload_records=upload_records,
        part_records=part_records,
        objects=objects,
        clock=clock,
        quota=quota,
        storage=storage,
        teams=teams,
    )
    await uploads.close()
