"""What becomes of uploads by themselves: they expire, and when they have ended their parts are removed.

Any number of replicas may do this at once: whatever was removed is removed again harmlessly, and records are changed at
the revision at which they were read.
"""

from contextlib import aclosing, suppress

from batchyard.common.clock import Clock
from batchyard.common.contracts.uploads import UploadStatus
from batchyard.common.crash import crash_point
from batchyard.common.ids import raw_id_of, uuid_hex_of
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Entry, Records, RevisionConflict
from batchyard.common.object_keys import UPLOADS_PREFIX, parse_part_key, parts_prefix
from batchyard.common.objects import ObjectInfo, ObjectStore
from batchyard.file_store.files import Files
from batchyard.file_store.store import record_key
from batchyard.file_store.upkeep import CLAIM_GRACE
from batchyard.file_store.upload import PartRecord, UploadRecord, expired

# Seconds for which an upload that has ended can still be asked for: a client may have lost the answer.
REMEMBERED = 86_400.0
_log = get_logger(__name__)


class UploadUpkeep:
    """One pass of each kind.

    Args:
        records: The upload records.
        parts: The records of their parts.
        files: Where a completed upload's file is recorded.
        objects: Where the bytes are.
        clock: Says what is old.
        claim_within: Seconds after its writing for which a part may be claimed.
    """

    def __init__(
        self,
        records: Records[UploadRecord],
        parts: Records[PartRecord],
        files: Files,
        objects: ObjectStore,
        clock: Clock,
        claim_within: float,
    ) -> None:
        self._records = records
        self._parts = parts
        self._files = files
        self._objects = objects
        self._clock = clock
        self._keep = claim_within + CLAIM_GRACE

    async def settle(self) -> None:
        """Expire, clear and forget the uploads whose time has come.

        Raises:
            ServiceUnavailable: NATS is away.
            ObjectStoreUnavailable: The object store is away.
        """
        async with aclosing(self._records.list("")) as entries:
            async for entry in entries:
                with suppress(RevisionConflict):  # another replica, or the tenant, was faster
                    await self._settle(entry)

    async def sweep(self) -> None:
        """Delete bytes of parts that came after their upload was cleared, or whose upload is forgotten.

        Raises:
            ServiceUnavailable: NATS is away.
            ObjectStoreUnavailable: The object store is away.
        """
        oldest_kept = self._clock.now() - self._keep
        async with aclosing(self._objects.list(UPLOADS_PREFIX)) as found:
            async for stored in found:
                if stored.modified_at.timestamp() < oldest_kept:
                    await self._sweep(stored)

    async def _settle(self, entry: Entry[UploadRecord]) -> None:
        now = self._clock.now()
        upload, revision = entry.value, entry.revision
        # Somebody who began in time may still be adding a part, or joining them.
        if upload.status is UploadStatus.PENDING and now >= upload.expires_at + CLAIM_GRACE:
            upload = expired(upload, now)
            revision = await self._records.update(entry.key, upload, revision)
            await self._files.quota.drop(upload.tenant, upload.raw_id)
            _log.info("upload.expired", tenant=upload.tenant, upload_id=upload.raw_id)
        if upload.ended_at is None:
            return
        if not upload.is_cleared:
            await self._clear(upload, revision)
        elif now >= max(upload.ended_at, upload.expires_at) + REMEMBERED:
            await self._parts.erase(entry.key)  # of a part that was being claimed while its upload was cleared
            await self._records.purge(entry.key)  # nobody changes it any more

    async def _clear(self, upload: UploadRecord, revision: int) -> None:
        if upload.file is not None:
            await self._files.record(upload.file, upload.raw_id)  # a crash may have kept it back
        prefix = parts_prefix(upload.tenant, uuid_hex_of(upload.raw_id))
        await self._objects.delete([stored.key async for stored in self._objects.list(prefix)])
        crash_point("parts.removed")
        await self._parts.erase(upload.key)
        await self._records.update(upload.key, upload.model_copy(update={"is_cleared": True}), revision)

    async def _sweep(self, stored: ObjectInfo) -> None:
        try:
            tenant, upload_hex, _ = parse_part_key(stored.key)
        except ValueError:
            return  # not written by Batchyard, so not ours to delete
        entry = await self._records.get(record_key(tenant, raw_id_of("upload", upload_hex)))
        if entry is None or entry.value.is_cleared:
            await self._objects.delete([stored.key])
            _log.info("part.swept", tenant=tenant, object_key=stored.key, bytes=stored.size)
