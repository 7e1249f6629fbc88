"""Making one file of an upload's parts."""

from batchyard.common.clock import Clock
from batchyard.common.contracts.files import Purpose
from batchyard.common.contracts.uploads import CompleteUpload, UploadStatus
from batchyard.common.crash import crash_point
from batchyard.common.errors import InvalidRequest, NotFound
from batchyard.common.ids import created_at_of, uuid_hex_of
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Records
from batchyard.common.object_keys import part_key
from batchyard.common.objects import ObjectInfo, ObjectStore, ObjectStoreUnavailable
from batchyard.file_store.content import check_first_line, check_md5
from batchyard.file_store.creation import expires_at
from batchyard.file_store.object_errors import object_store_errors
from batchyard.file_store.places import new_place
from batchyard.file_store.store import FileRecord
from batchyard.file_store.upload import (
    PartRecord,
    UploadRecord,
    check_choice,
    check_chosen,
    check_pending,
    completed,
    lines_in,
    no_such_upload,
)

_log = get_logger(__name__)


class Assembly:
    """Joins the parts of uploads within the object store.

    Args:
        records: The upload records.
        parts: The records of their parts.
        objects: Where the bytes are.
        clock: Says what has expired.
        max_first_line_bytes: A batch input's first line is judged up to this length.
    """

    def __init__(
        self,
        records: Records[UploadRecord],
        parts: Records[PartRecord],
        objects: ObjectStore,
        clock: Clock,
        max_first_line_bytes: int,
    ) -> None:
        self._records = records
        self._parts = parts
        self._objects = objects
        self._clock = clock
        self._max_first_line_bytes = max_first_line_bytes

    async def make(self, upload: UploadRecord, command: CompleteUpload, chosen: str) -> UploadRecord:
        """Check and join the parts, and complete the upload with them; of several that try, one file is kept. `chosen`
        is the digest of the parts' IDs.

        Raises:
            NotFound: There is no such upload.
            InvalidRequest: It has ended otherwise, or the parts are not the file that was announced.
        """
        check_pending(upload, self._clock.now(), "complete")
        keys, lines = await self._chosen(upload, command.part_ids)
        try:
            with object_store_errors():
                if upload.purpose is Purpose.BATCH:
                    await check_first_line(self._objects, keys, self._max_first_line_bytes)
                if command.md5 is not None:
                    await check_md5(self._objects, keys, command.md5)
                raw_id, object_key = new_place(upload.tenant)
                stored = await self._objects.concatenate(object_key, keys)
        except NotFound:
            # The parts go when the upload has ended: somebody else may have completed it.
            return await self._ended_meanwhile(upload, chosen)
        crash_point("upload.joined")
        file = _file_of(upload, raw_id, stored, command.model, lines)
        now = self._clock.now()
        try:
            entry = await self._records.change(upload.key, lambda record: completed(record, file, chosen, now))
        except InvalidRequest:
            await self._discard(object_key)
            raise
        if entry is None:
            raise no_such_upload(upload.raw_id)
        if entry.value.file != file:
            await self._discard(object_key)
            return entry.value
        crash_point("upload.completed")
        _log.info("upload.completed", tenant=upload.tenant, upload_id=upload.raw_id, file_id=raw_id, parts=len(keys))
        return entry.value

    async def _chosen(self, upload: UploadRecord, part_ids: tuple[str, ...]) -> tuple[list[str], int | None]:
        """The keys of the parts' bytes, in order, and how many lines they hold. Raises InvalidRequest."""
        if len(set(part_ids)) < len(part_ids):
            raise InvalidRequest("A part was named twice.", param="part_ids", code="invalid_value")
        known = {entry.key.rpartition(".")[2]: entry.value async for entry in self._parts.list(upload.key)}
        for index, part_id in enumerate(part_ids):
            if part_id not in known:
                raise InvalidRequest(
                    f"No such Part object: {part_id}", param=f"part_ids[{index}]", code="invalid_value"
                )
        parts = [known[part_id] for part_id in part_ids]
        check_choice(upload, [part.bytes for part in parts])
        upload_hex = uuid_hex_of(upload.raw_id)
        return [part_key(upload.tenant, upload_hex, uuid_hex_of(part_id)) for part_id in part_ids], lines_in(parts)

    async def _ended_meanwhile(self, upload: UploadRecord, chosen: str) -> UploadRecord:
        entry = await self._records.get(upload.key)
        if entry is None:
            raise no_such_upload(upload.raw_id)
        ended = entry.value
        if ended.status is UploadStatus.PENDING:
            raise InvalidRequest("The bytes of a part are gone. Please upload the file again.", param="part_ids")
        check_chosen(ended, chosen, self._clock.now())
        return ended

    async def _discard(self, object_key: str) -> None:
        try:
            await self._objects.delete([object_key])
        except ObjectStoreUnavailable as error:  # the sweep does it
            _log.warning("upload.bytes_left", object_key=object_key, error=str(error))


def _file_of(upload: UploadRecord, raw_id: str, stored: ObjectInfo, model: str | None, lines: int | None) -> FileRecord:
    created_at = created_at_of(raw_id)
    return FileRecord(
        raw_id=raw_id,
        tenant=upload.tenant,
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=stored.size,
        etag=stored.etag,
        object_key=stored.key,
        model=upload.model if upload.model is not None else model,
        created_at=created_at,
        expires_at=expires_at(created_at, upload.purpose, upload.file_lifetime),
        lines=lines,
    )
