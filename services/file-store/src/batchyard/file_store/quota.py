"""The storage quotas of teams, kept by compare-and-set on one record for each."""

from collections.abc import Callable
from contextlib import aclosing

from batchyard.common.clock import Clock
from batchyard.common.contracts.files import GetStorage, StorageReport
from batchyard.common.contracts.uploads import UploadStatus
from batchyard.common.errors import QuotaExceeded, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.messaging.teams import Teams
from batchyard.common.refusals import STORAGE_REFUSALS
from batchyard.common.subjects import decode_token, encode_token
from batchyard.file_store.storage import (
    Claim,
    StorageRecord,
    changed_by,
    claimed,
    dropped,
    exceeded,
    recounted,
    settled,
)
from batchyard.file_store.store import FileRecord, records_prefix
from batchyard.file_store.upload import UploadRecord

_ATTEMPTS = 64
_log = get_logger(__name__)


class Quota:
    """Whether there is room for a tenant's bytes. A team without a quota is not counted.

    Every method raises ServiceUnavailable when NATS does not answer.
    """

    def __init__(
        self,
        storage: Records[StorageRecord],
        files: Records[FileRecord],
        uploads: Records[UploadRecord],
        teams: Teams,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._files = files
        self._uploads = uploads
        self._teams = teams
        self._clock = clock

    def is_kept(self, tenant: str) -> bool:
        """Whether the tenant has a quota."""
        return self._limit(tenant) is not None

    async def room(self, tenant: str) -> int | None:
        """How many bytes are left; None without a quota. Raises QuotaExceeded when none are."""
        limit = self._limit(tenant)
        if limit is None:
            return None
        entry = await self._storage.get(encode_token(tenant))
        used = (entry.value if entry is not None else await self._counted(tenant)).total
        if used >= limit:
            STORAGE_REFUSALS.inc()
            raise exceeded(limit, used, None)
        return limit - used

    async def report(self, tenant: str, _command: GetStorage) -> StorageReport:
        """How much is used."""
        limit = self._limit(tenant)
        if limit is None:
            return StorageReport()
        entry = await self._storage.get(encode_token(tenant))
        used = (entry.value if entry is not None else await self._counted(tenant)).total
        return StorageReport(max_storage_bytes=limit, used_bytes=used)

    async def claim(self, tenant: str, raw_id: str, size: int, *, is_upload: bool = False) -> None:
        """Take room for bytes that are about to be recorded. Again for the same ID changes nothing.

        Raises:
            QuotaExceeded: There is not enough.
        """
        limit = self._limit(tenant)
        if limit is None:
            return
        claim = Claim(bytes=size, at=self._clock.now(), is_upload=is_upload)
        key = encode_token(tenant)
        for _ in range(_ATTEMPTS):
            entry = await self._storage.get(key)
            record = entry.value if entry is not None else await self._counted(tenant)
            try:
                changed = claimed(record, raw_id, claim, limit)
            except QuotaExceeded:
                STORAGE_REFUSALS.inc()
                raise
            try:
                if entry is None:
                    await self._storage.create(key, changed)
                elif changed != record:
                    await self._storage.update(key, changed, entry.revision)
            except RevisionConflict:
                continue
            return
        raise ServiceUnavailable("Too many files of this team are being stored at once. Please retry shortly.")

    async def settle(self, tenant: str, raw_id: str) -> None:
        """What was claimed is recorded."""
        await self._change(tenant, lambda record: settled(record, raw_id))

    async def drop(self, tenant: str, raw_id: str) -> None:
        """What was claimed will not be recorded."""
        await self._change(tenant, lambda record: dropped(record, raw_id))

    async def note(self, tenant: str, size: int) -> None:
        """Bytes came that are never refused, or went (negative)."""
        await self._change(tenant, lambda record: changed_by(record, size))

    async def recount(self) -> None:
        """Compare every record with the files and uploads that there are: a crash may have left them apart."""
        async with aclosing(self._storage.list("")) as entries:
            async for entry in entries:
                tenant = decode_token(entry.key)
                if self._limit(tenant) is None:
                    await self._storage.delete(entry.key)  # counted anew when there is a quota again
                    continue
                record = await self._recounted(tenant, entry.value)
                if record == entry.value:
                    continue
                try:
                    await self._storage.update(entry.key, record, entry.revision)
                except RevisionConflict:
                    continue  # files came or went meanwhile: the next recount sees them all
                if record.total != entry.value.total:
                    _log.info("storage.corrected", tenant=tenant, before=entry.value.total, bytes=record.total)

    async def _counted(self, tenant: str) -> StorageRecord:
        return await self._recounted(tenant, StorageRecord())

    async def _recounted(self, tenant: str, record: StorageRecord) -> StorageRecord:
        files, pending = {}, {}
        async with aclosing(self._files.list(records_prefix(tenant))) as found:
            async for file in found:
                files[file.value.raw_id] = file.value.bytes
        async with aclosing(self._uploads.list(records_prefix(tenant))) as announced:
            async for upload in announced:
                if upload.value.status is UploadStatus.PENDING:
                    pending[upload.value.raw_id] = upload.value.bytes
        return recounted(record, files, pending, self._clock.now())

    async def _change(self, tenant: str, change: Callable[[StorageRecord], StorageRecord]) -> None:
        await self._storage.change(encode_token(tenant), change)

    def _limit(self, tenant: str) -> int | None:
        team = self._teams.get(tenant)
        return None if team is None else team.limits.max_storage_bytes
