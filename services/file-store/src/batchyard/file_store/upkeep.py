"""Removal of what nobody will ask for again: expired files, and bytes that were never claimed.

Any number of replicas may do this at once: a record goes at the revision at which it was read, and deleting bytes twice
is harmless.
"""

from contextlib import aclosing

from batchyard.common.clock import Clock
from batchyard.common.ids import raw_id_of
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.object_keys import FILES_PREFIX, parse_file_key
from batchyard.common.objects import ObjectInfo, ObjectStore
from batchyard.file_store.files import DELETION_REMEMBERED, Files
from batchyard.file_store.store import FileRecord, record_key

# Seconds between the last moment of a claim and the sweep: longer than a claim takes and clocks differ.
CLAIM_GRACE = 600.0
_log = get_logger(__name__)


class Upkeep:
    """One pass of each kind of removal.

    Args:
        files: Removes records together with their bytes.
        records: The file records.
        objects: Where the bytes are.
        clock: Says what is old.
        claim_within: Seconds after their writing for which bytes may be claimed.
    """

    def __init__(
        self, files: Files, records: Records[FileRecord], objects: ObjectStore, clock: Clock, claim_within: float
    ) -> None:
        self._files = files
        self._records = records
        self._objects = objects
        self._clock = clock
        self._keep = claim_within + CLAIM_GRACE

    async def remove_expired(self) -> None:
        """Remove every file whose time is over. Raises ServiceUnavailable."""
        now = self._clock.now()
        async with aclosing(self._records.list("")) as entries:
            async for entry in entries:
                if not entry.value.is_expired(now):
                    continue
                try:
                    await self._files.remove(entry)
                except RevisionConflict:
                    continue  # another replica, or the tenant, was faster
                _log.info("file.expired", tenant=entry.value.tenant, file_id=entry.value.raw_id)

    async def sweep_places(self) -> None:
        """Delete bytes that no record names and that can no longer be claimed.

        Raises:
            ServiceUnavailable: NATS is away.
            ObjectStoreUnavailable: The object store is away.
        """
        oldest_kept = self._clock.now() - self._keep
        async with aclosing(self._objects.list(FILES_PREFIX)) as found:
            async for stored in found:
                if stored.modified_at.timestamp() < oldest_kept:
                    await self._sweep(stored)

    async def forget_removed(self) -> None:
        """Let go of what tells a file that was deleted from one that never was. Raises ServiceUnavailable.

        Not before its bytes can no longer be claimed, as they would bring it back, and its deletion is answered anew.
        """
        await self._records.forget_removed(self._clock.now() - max(self._keep, DELETION_REMEMBERED))

    async def _sweep(self, stored: ObjectInfo) -> None:
        try:
            tenant, uuid_hex = parse_file_key(stored.key)
        except ValueError:
            return  # not written by Batchyard, so not ours to delete
        if await self._records.get(record_key(tenant, raw_id_of("file", uuid_hex))) is not None:
            return
        await self._objects.delete([stored.key])
        _log.info("place.swept", tenant=tenant, object_key=stored.key, bytes=stored.size)
