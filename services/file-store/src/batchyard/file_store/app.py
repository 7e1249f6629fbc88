"""The composition root: settings become connections, connections become the service."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from batchyard.common.clock import SystemClock
from batchyard.common.health import Check, HealthChecks
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.teams import open_teams
from batchyard.common.messaging.topology import FILES_BUCKET, PARTS_BUCKET, STORAGE_BUCKET, UPLOADS_BUCKET
from batchyard.common.objects import ObjectStore, open_objects
from batchyard.common.operations import ready_when
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.tasks import end
from batchyard.file_store.files import Files
from batchyard.file_store.handlers import SERVICE, command_router
from batchyard.file_store.loops import every, until_done
from batchyard.file_store.quota import Quota
from batchyard.file_store.settings import FileStoreSettings
from batchyard.file_store.storage import StorageRecord
from batchyard.file_store.store import FileRecord
from batchyard.file_store.upkeep import Upkeep
from batchyard.file_store.upload import PartRecord, UploadRecord
from batchyard.file_store.upload_upkeep import UploadUpkeep
from batchyard.file_store.uploads import Uploads

_OBJECT_STORE_RETRY = 5.0


def serve(settings: FileStoreSettings) -> Callable[[asyncio.Event], Awaitable[None]]:
    """The service as `run_service` starts it."""
    return partial(_run, settings)


async def _run(settings: FileStoreSettings, stop: asyncio.Event) -> None:
    # Commands that are under way when the process stops still need the object store: it is closed last.
    async with (
        open_objects(settings) as objects,
        open_messaging(SERVICE, settings) as messaging,
        open_teams(messaging.connection) as teams,
    ):
        records = Records(messaging.js, FILES_BUCKET, FileRecord)
        clock = SystemClock()
        claim_within = settings.unclaimed_upload_max_age
        upload_records = Records(messaging.js, UPLOADS_BUCKET, UploadRecord)
        storage = Records(messaging.js, STORAGE_BUCKET, StorageRecord)
        quota = Quota(storage, records, upload_records, teams, clock)
        files = Files(records, objects, clock, claim_within, quota, settings.upload_url_lifetime)
        upkeep = Upkeep(files, records, objects, clock, claim_within)
        part_records = Records(messaging.js, PARTS_BUCKET, PartRecord)
        uploads = Uploads(
            upload_records, part_records, files, objects, clock, settings.upload_limits, settings.max_first_line_bytes
        )
        upload_upkeep = UploadUpkeep(upload_records, part_records, files, objects, clock, claim_within)

        async def sweep() -> None:
            # First, so that the file of a completed upload is recorded before its bytes are found without a record.
            await upload_upkeep.settle()
            await upkeep.sweep_places()
            await upkeep.forget_removed()
            await upload_upkeep.sweep()

        async with HealthChecks(SERVICE, _checks(messaging, records, objects)) as health:
            messaging.broker.include_router(command_router(files, uploads, health))
            await messaging.broker.start()
            ready_when(health)
            async with asyncio.TaskGroup() as group:
                loops = [
                    # A store that is away at the start is no reason to keep back what needs only the records.
                    group.create_task(until_done(_OBJECT_STORE_RETRY, "object_store", objects.check, stop)),
                    group.create_task(every(settings.expiry_interval, "expiry", upkeep.remove_expired, stop)),
                    group.create_task(every(settings.expiry_interval, "uploads", upload_upkeep.settle, stop)),
                    group.create_task(every(settings.recount_interval, "recount", quota.recount, stop)),
                    group.create_task(every(settings.sweep_interval, "sweep", sweep, stop)),
                ]
                await stop.wait()
                await end(loops)  # a pass may be long, and may be left anywhere
                await uploads.close()


def _checks(messaging: Messaging, records: Records[FileRecord], objects: ObjectStore) -> dict[str, Check]:
    return {
        "nats": messaging.check,
        # No such key, but the answer comes through JetStream with the permissions that every command needs.
        "jetstream": partial(records.get, "health"),
        "object_store": objects.check,
    }
