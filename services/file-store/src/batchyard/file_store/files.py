"""Files: claimed from their places, found by their ID, listed, deleted.

A file is its record: bytes are written before it and deleted after it, so that a crash leaves bytes without a record,
which `upkeep` sweeps, and never a record without bytes.
"""

import asyncio
from contextlib import aclosing, suppress

from batchyard.common.clock import Clock
from batchyard.common.contracts.files import (
    CreateFile,
    DeletedFile,
    DeleteFile,
    Download,
    File,
    FilePage,
    GetFile,
    ListFiles,
    OpenDownload,
    OpenPlace,
    Place,
    Purpose,
)
from batchyard.common.crash import crash_point
from batchyard.common.errors import ApiError, InvalidRequest, NotFound, QuotaExceeded
from batchyard.common.ids import created_at_of, decode_id, is_raw_id, uuid_hex_of
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Entry, Records, RevisionConflict
from batchyard.common.object_keys import file_key
from batchyard.common.objects import ObjectInfo, ObjectStore, ObjectStoreUnavailable
from batchyard.common.paging import PageWindow
from batchyard.file_store.creation import check_batch_input, expires_at, line_count
from batchyard.file_store.listing import page_of, read_cursor
from batchyard.file_store.places import Places, new_place, no_such_place
from batchyard.file_store.quota import Quota
from batchyard.file_store.store import FileRecord, record_key, records_prefix

# Each holds up to a page of records and streams all of a tenant's; more at once would only make all of them late.
_CONCURRENT_LISTINGS = 4
DELETION_REMEMBERED = 900.0
"""Seconds for which a deletion is answered again as the first time: longer than the SDKs wait for an answer."""

_log = get_logger(__name__)


class Files:
    """The files of all tenants. Each method answers one command for one tenant.

    Another tenant's file, an expired one and one that never was are answered alike. Every method raises
    ServiceUnavailable when NATS or the object store is away.

    Args:
        records: The file records; this service alone writes them.
        objects: Where the bytes are.
        clock: Says what has expired.
        claim_within: Seconds after their writing for which bytes may be claimed.
        url_lifetime: Seconds for which bytes may be sent to a URL, or fetched from one.
    """

    def __init__(
        self,
        records: Records[FileRecord],
        objects: ObjectStore,
        clock: Clock,
        claim_within: float,
        quota: Quota,
        url_lifetime: float = 900.0,
    ) -> None:
        self._records = records
        self._objects = objects
        self._clock = clock
        self._places = Places(objects, clock, claim_within)
        self._url_lifetime = url_lifetime
        self.quota = quota
        self._listings = asyncio.Semaphore(_CONCURRENT_LISTINGS)

    async def open_place(self, tenant: str, command: OpenPlace) -> Place:
        """Name a place for one file's bytes, and its URL if one is asked for. Nothing is recorded.

        Raises:
            InvalidRequest: A URL is asked for, and the store has none.
            QuotaExceeded: The team has no room left.
        """
        room = await self.quota.room(tenant)
        raw_id, object_key = new_place(tenant)
        if not command.presigned:
            return Place(object_key=object_key, file_id=raw_id, room=room)
        expires_at = int(self._clock.now() + self._url_lifetime)
        url = _needed(await self._objects.put_url(object_key, self._url_lifetime))
        return Place(object_key=object_key, file_id=raw_id, upload_url=url, upload_url_expires_at=expires_at, room=room)

    async def create(self, tenant: str, command: CreateFile) -> File:
        """Record uploaded or inline bytes as a file; claiming the same upload again answers the same file.

        Raises:
            InvalidRequest: Not exactly one source, no such upload of this tenant's, or no possible batch input.
            QuotaExceeded: The team has not enough room; the bytes are removed then. Results of batches always have.
        """
        match command:
            case CreateFile(object_key=str(object_key), content=None):
                raw_id, stored = await self._places.claimed(tenant, object_key)
                check_batch_input(command.filename, command.purpose, stored.size)
            case CreateFile(object_key=None, content=str(content)):
                check_batch_input(command.filename, command.purpose, len(content))
                raw_id, stored = await self._places.filled(tenant, content.encode())
            case _:
                raise InvalidRequest("Exactly one of 'object_key' and 'content' must be given.", param="object_key")
        record = _record_of(tenant, command, raw_id, stored)
        if record.purpose is not Purpose.BATCH_OUTPUT:
            await self._take_room(record)
        return (await self._record(record)).as_file()

    async def get(self, tenant: str, command: GetFile) -> File:
        """Raises NotFound."""
        return (await self._find(tenant, command.file_id)).value.as_file()

    async def list(self, tenant: str, command: ListFiles) -> FilePage:
        """One page, possibly shorter than the limit (see `page_of`). Raises InvalidRequest for `after`."""
        window = PageWindow[FileRecord](command.limit, command.order, read_cursor(command.after))
        now = self._clock.now()
        async with self._listings, aclosing(self._records.list(records_prefix(tenant))) as entries:
            async for entry in entries:
                record = entry.value
                if command.purpose in (None, record.purpose) and not record.is_expired(now):
                    window.offer(record.raw_id, record)
        return page_of(window)

    async def delete(self, tenant: str, command: DeleteFile) -> DeletedFile:
        """Delete a file. Whoever got no answer may ask again, and gets the same for `DELETION_REMEMBERED` seconds.

        Raises:
            NotFound: There is no such file, and was none lately.
        """
        try:
            entry = await self._find(tenant, command.file_id)
            await self.remove(entry)
        except (NotFound, RevisionConflict):
            return await self._deleted_before(tenant, command.file_id)
        _log.info("file.deleted", tenant=tenant, file_id=entry.value.raw_id)
        return DeletedFile(id=entry.value.public_id)

    async def _deleted_before(self, tenant: str, file_id: str) -> DeletedFile:
        raw_id = decode_id(file_id).raw
        if not is_raw_id("file", raw_id):
            raise _no_such_file(file_id)
        removed_at = await self._records.removed_at(record_key(tenant, raw_id))
        if removed_at is None or self._clock.now() - removed_at > DELETION_REMEMBERED:
            raise _no_such_file(file_id)
        # The first try may have died before it came to the bytes.
        await self._delete_bytes(raw_id, file_key(tenant, uuid_hex_of(raw_id)))
        return DeletedFile(id=file_id)

    async def open_download(self, tenant: str, command: OpenDownload) -> Download:
        """Where the bytes are; `model` is the record's, else the one that the given ID carries.

        Raises:
            NotFound: There is no such file.
            InvalidRequest: A URL is asked for, and the store has none.
        """
        record = (await self._find(tenant, command.file_id)).value
        url, expires_at = None, None
        if command.presigned:
            expires_at = int(self._clock.now() + self._url_lifetime)
            url = _needed(await self._objects.get_url(record.object_key, self._url_lifetime))
        return Download(
            file=record.as_file(),
            raw_id=record.raw_id,
            model=record.model if record.model is not None else decode_id(command.file_id).model,
            object_key=record.object_key,
            etag=record.etag,
            download_url=url,
            download_url_expires_at=expires_at,
            lines=record.lines,
        )

    async def remove(self, entry: Entry[FileRecord]) -> None:
        """Remove a record, then its bytes; bytes that cannot be deleted now are left to the sweep.

        Raises:
            RevisionConflict: Someone else removed it first.
        """
        await self._records.delete(entry.key, entry.revision)
        crash_point("file.removed")
        await self.quota.note(entry.value.tenant, -entry.value.bytes)
        await self._delete_bytes(entry.value.raw_id, entry.value.object_key)

    async def _delete_bytes(self, raw_id: str, object_key: str) -> None:
        try:
            await self._objects.delete([object_key])
        except ObjectStoreUnavailable as error:
            _log.warning("file.bytes_left", file_id=raw_id, error=str(error))

    async def _find(self, tenant: str, file_id: str) -> Entry[FileRecord]:
        asked = decode_id(file_id)
        if not is_raw_id("file", asked.raw):
            raise _no_such_file(file_id)
        entry = await self._records.get(record_key(tenant, asked.raw))
        if entry is None or entry.value.is_expired(self._clock.now()):
            raise _no_such_file(file_id)
        # LiteLLM's tools write a model into the ID of a file that was uploaded without one.
        if entry.value.model is not None and asked.model not in (None, entry.value.model):
            raise _no_such_file(file_id)
        return entry

    async def _take_room(self, record: FileRecord) -> None:
        if not self.quota.is_kept(record.tenant) or await self._records.get(record.key) is not None:
            return
        try:
            await self.quota.claim(record.tenant, record.raw_id, record.bytes)
        except QuotaExceeded:
            with suppress(ObjectStoreUnavailable):  # the sweep does it
                await self._objects.delete([record.object_key])
            raise
        crash_point("storage.claimed")

    async def _record(self, record: FileRecord) -> FileRecord:
        if record.is_expired(self._clock.now()):
            raise InvalidRequest(
                "The upload began so long ago that the file would have expired.", param="expires_after"
            )
        kept = await self.record(record)
        if kept is None or kept.is_expired(self._clock.now()):
            raise no_such_place(record.object_key)
        return kept

    async def record(self, record: FileRecord, upload_id: str | None = None) -> FileRecord | None:
        """Write the record of a file whose bytes are there; a file that was deleted meanwhile is not made again.

        Args:
            upload_id: The upload that brought it, for which its room was taken.

        Returns:
            What is recorded under its key now: the first record that was written, or None when that is gone.
        """
        crash_point("file.stored")
        try:
            await self._records.update(record.key, record, 0)
        except RevisionConflict:
            entry = await self._records.get(record.key)
            return None if entry is None else entry.value
        crash_point("file.recorded")
        if record.purpose is Purpose.BATCH_OUTPUT:
            await self.quota.note(record.tenant, record.bytes)
        else:
            await self.quota.settle(record.tenant, upload_id or record.raw_id)
        _log.info(
            "file.created",
            tenant=record.tenant,
            file_id=record.raw_id,
            purpose=record.purpose.value,
            bytes=record.bytes,
            model=record.model,
        )
        return record


def _record_of(tenant: str, command: CreateFile, raw_id: str, stored: ObjectInfo) -> FileRecord:
    created_at = created_at_of(raw_id)
    return FileRecord(
        raw_id=raw_id,
        tenant=tenant,
        filename=command.filename,
        purpose=command.purpose,
        bytes=stored.size,
        etag=stored.etag,
        object_key=stored.key,
        model=command.model,
        created_at=created_at,
        expires_at=expires_at(created_at, command.purpose, command.expires_after),
        lines=command.lines if command.content is None else line_count(command.content.encode()),
    )


def _needed(url: str | None) -> str:
    if url is None:
        raise InvalidRequest(
            "This installation keeps files in a folder, which has no URLs: read and write the bytes there yourself.",
            param="presigned",
            code="presigned_unsupported",
        )
    return url


def _no_such_file(file_id: str) -> ApiError:
    return NotFound(f"No such File object: {file_id}", param="id")
