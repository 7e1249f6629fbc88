"""A gateway, the real file-store, and recording peers for the services that do the rest."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from unit.gateway.peers import Recorder, batch_runner, billing
from unit.gateway.rig import CONFIG, Served, Start, running_gateway

from batchyard.common.clock import SystemClock
from batchyard.common.config import Config
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.teams import open_teams
from batchyard.common.messaging.topology import FILES_BUCKET, PARTS_BUCKET, STORAGE_BUCKET, UPLOADS_BUCKET
from batchyard.common.objects import open_objects
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.file_store.files import Files
from batchyard.file_store.handlers import command_router
from batchyard.file_store.quota import Quota
from batchyard.file_store.settings import FileStoreSettings
from batchyard.file_store.storage import StorageRecord
from batchyard.file_store.store import FileRecord
from batchyard.file_store.upload import PartRecord, UploadRecord
from batchyard.file_store.uploads import Uploads
from batchyard.gateway.settings import GatewaySettings


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def services(messaging: Messaging, settings: Settings, recorder: Recorder) -> AsyncIterator[Messaging]:
    """Every service behind the gateway."""
    async with AsyncExitStack() as stack, open_objects(settings) as objects:
        records = Records(messaging.js, FILES_BUCKET, FileRecord)
        upload_records = Records(messaging.js, UPLOADS_BUCKET, UploadRecord)
        storage = Records(messaging.js, STORAGE_BUCKET, StorageRecord)
        teams = await stack.enter_async_context(open_teams(messaging.connection))
        quota = Quota(storage, records, upload_records, teams, SystemClock())
        files = Files(records, objects, SystemClock(), 86_400, quota)
        uploads = Uploads(
            upload_records,
            Records(messaging.js, PARTS_BUCKET, PartRecord),
            files,
            objects,
            SystemClock(),
            FileStoreSettings().upload_limits,
            1 << 20,
        )
        health = HealthChecks("file-store", {"object_store": objects.check})
        messaging.broker.include_router(command_router(files, uploads, health))
        messaging.broker.include_router(batch_runner(recorder))
        messaging.broker.include_router(billing(recorder))
        await messaging.broker.start()
        yield messaging
        await uploads.close()


@pytest.fixture
async def start(settings: Settings) -> AsyncIterator[Start]:
    """Start a gateway with the settings given, with no service behind it but those that the test asks for."""
    async with AsyncExitStack() as stack:

        def start_one(config: Config = CONFIG, **overrides: Any) -> Any:
            mine: dict[str, Any] = {
                "nats_url": settings.nats_url,
                "object_store": settings.object_store,
                "shutdown_timeout": 2,
            }
            return stack.enter_async_context(running_gateway(GatewaySettings(**(mine | overrides)), config))

        yield start_one


@pytest.fixture
async def gateway(services: Messaging, start: Start) -> Served:
    """A gateway as it is by default, with every service behind it."""
    return await start()
