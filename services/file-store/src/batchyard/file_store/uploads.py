"""Uploads: files that come in parts.

The bytes of a part, and those of the joined file, are written before the record that names them. An upload is completed
by one write to its record, which holds its file's record: whatever dies after it, `upkeep` makes the file from there.
"""

from batchyard.common.clock import Clock
from batchyard.common.contracts.files import File
from batchyard.common.contracts.uploads import (
    AddPart,
    CancelUpload,
    CompleteUpload,
    CreateUpload,
    GetUpload,
    OpenPart,
    PartPlace,
    Upload,
    UploadPart,
)
from batchyard.common.crash import crash_point
from batchyard.common.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge
from batchyard.common.ids import created_at_of, is_raw_id, new_raw_id, raw_id_of, uuid_hex_of
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import Records, RevisionConflict
from batchyard.common.object_keys import parse_part_key, part_key
from batchyard.common.objects import ObjectInfo, ObjectStore, check_key
from batchyard.file_store.assembly import Assembly
from batchyard.file_store.creation import check_batch_input
from batchyard.file_store.files import Files
from batchyard.file_store.joins import Joins
from batchyard.file_store.object_errors import object_store_errors
from batchyard.file_store.store import record_key
from batchyard.file_store.upload import (
    PartRecord,
    UploadLimits,
    UploadRecord,
    as_part,
    cancelled,
    check_chosen,
    check_part_size,
    check_pending,
    digest_of,
    no_such_upload,
    part_record_key,
    with_part,
)

# Each reads or copies gigabytes: more at once would only make all of them late.
_JOINS_AT_ONCE = 4
_log = get_logger(__name__)


class Uploads:
    """The uploads of all tenants. Each method answers one command for one tenant.

    Another tenant's upload and one that never was are answered alike. Every method raises ServiceUnavailable when NATS
    or the object store is away.

    Args:
        records: The upload records; this service alone writes them.
        parts: The records of their parts.
        files: Where a completed upload's file is recorded.
        objects: Where the bytes are.
        clock: Says what has expired.
        limits: How much an upload may be, and for how long.
        max_first_line_bytes: A batch input's first line is judged up to this length.
    """

    def __init__(
        self,
        records: Records[UploadRecord],
        parts: Records[PartRecord],
        files: Files,
        objects: ObjectStore,
        clock: Clock,
        limits: UploadLimits,
        max_first_line_bytes: int,
    ) -> None:
        self._records = records
        self._parts = parts
        self._files = files
        self._objects = objects
        self._clock = clock
        self._limits = limits
        self._assembly = Assembly(records, parts, objects, clock, max_first_line_bytes)
        self._joins = Joins[UploadRecord](_JOINS_AT_ONCE)

    async def create(self, tenant: str, command: CreateUpload) -> Upload:
        """Announce a file. Raises InvalidRequest or PayloadTooLarge for one that could never be made, and QuotaExceeded
        for one that the team has no room for: it is taken now."""
        if command.bytes > self._limits.max_bytes:
            raise PayloadTooLarge(
                f"File is too large: an upload has at most {self._limits.max_bytes} bytes.", param="bytes"
            )
        check_batch_input(command.filename, command.purpose, command.bytes, named_by="filename")
        raw_id = new_raw_id("upload")
        _new_part(tenant, raw_id)
        after = command.expires_after
        record = UploadRecord(
            raw_id=raw_id,
            tenant=tenant,
            filename=command.filename,
            purpose=command.purpose,
            bytes=command.bytes,
            model=command.model,
            expires_at=created_at_of(raw_id) + int(self._limits.lifetime),
            expires_after=None if after is None else after.seconds,
        )
        await self._files.quota.claim(tenant, raw_id, command.bytes, is_upload=True)
        await self._records.create(record.key, record)
        _log.info("upload.created", tenant=tenant, upload_id=raw_id, purpose=command.purpose, bytes=command.bytes)
        return record.as_upload(self._clock.now())

    async def get(self, tenant: str, command: GetUpload) -> Upload:
        """Raises NotFound."""
        return await self._answer(await self._find(tenant, command.upload_id))

    async def open_part(self, tenant: str, command: OpenPart) -> PartPlace:
        """Name a place for one part's bytes. Nothing is recorded. Raises NotFound or InvalidRequest."""
        upload = await self._find(tenant, command.upload_id)
        check_pending(upload, self._clock.now(), "add a part to")
        part_id, object_key = _new_part(tenant, upload.raw_id)
        return PartPlace(object_key=object_key, part_id=part_id, max_bytes=self._limits.max_part_bytes)

    async def add_part(self, tenant: str, command: AddPart) -> UploadPart:
        """Record the bytes in a place as a part; claiming the same place again answers the same part.

        Raises:
            NotFound: There is no such upload.
            InvalidRequest: It has ended or is full, or there is nothing in the place.
            PayloadTooLarge: The part is, or the upload becomes, too large.
        """
        upload = await self._find(tenant, command.upload_id)
        part_id = _part_in(upload, command.object_key)
        key = part_record_key(upload, part_id)
        if await self._parts.get(key) is not None:
            return as_part(upload, part_id)
        stored = await self._stored(command.object_key)
        check_part_size(stored.size, self._limits.max_part_bytes)
        now = self._clock.now()
        if await self._records.change(upload.key, lambda kept: with_part(kept, stored.size, now, self._limits)) is None:
            raise no_such_upload(command.upload_id)
        crash_point("part.counted")
        try:
            await self._parts.create(key, PartRecord(bytes=stored.size, newlines=command.newlines))
        except RevisionConflict:
            return as_part(upload, part_id)
        crash_point("part.recorded")
        return as_part(upload, part_id)

    async def complete(self, tenant: str, command: CompleteUpload) -> Upload:
        """Make the file, or answer `pending` while that takes longer than the caller wants to wait.

        Raises:
            NotFound: There is no such upload.
            InvalidRequest: It has ended otherwise, or the parts are not the file that was announced.
        """
        upload = await self._find(tenant, command.upload_id)
        chosen = digest_of(command.part_ids)
        if upload.file is None:
            done = await self._joins.result(
                (tenant, upload.raw_id, chosen, command.md5, command.model),
                lambda: self._assembly.make(upload, command, chosen),
                command.wait,
            )
            if done is None:
                return upload.as_upload(0)  # its time cannot run out any more
            upload = done
        check_chosen(upload, chosen, self._clock.now())
        return await self._answer(upload)

    async def cancel(self, tenant: str, command: CancelUpload) -> Upload:
        """Raises NotFound, and InvalidRequest when the upload has ended otherwise."""
        upload = await self._find(tenant, command.upload_id)
        now = self._clock.now()
        entry = await self._records.change(upload.key, lambda record: cancelled(record, now))
        if entry is None:
            raise no_such_upload(command.upload_id)
        await self._files.quota.drop(tenant, upload.raw_id)
        _log.info("upload.cancelled", tenant=tenant, upload_id=upload.raw_id)
        return entry.value.as_upload(now)

    async def close(self) -> None:
        """Give up the joins that are under way; whoever asks again begins them anew."""
        await self._joins.close()

    async def _find(self, tenant: str, upload_id: str) -> UploadRecord:
        entry = await self._records.get(record_key(tenant, upload_id)) if is_raw_id("upload", upload_id) else None
        if entry is None:
            raise no_such_upload(upload_id)
        return entry.value

    async def _answer(self, upload: UploadRecord) -> Upload:
        """The upload as the caller sees it; a completed one has its file, made now if a crash came in between."""
        now = self._clock.now()
        file: File | None = None
        if upload.file is not None:
            kept = await self._files.record(upload.file, upload.raw_id)
            file = None if kept is None or kept.is_expired(now) else kept.as_file()
        return upload.as_upload(now, file)

    async def _stored(self, object_key: str) -> ObjectInfo:
        try:
            with object_store_errors():
                return await self._objects.stat(object_key)
        except NotFound:
            raise _no_such_place(object_key) from None


def _new_part(tenant: str, upload_id: str) -> tuple[str, str]:
    """A fresh part's ID and the key of its bytes. Raises InvalidRequest for a tenant too long for a key."""
    part_id = new_raw_id("part")
    object_key = part_key(tenant, uuid_hex_of(upload_id), uuid_hex_of(part_id))
    with object_store_errors():
        check_key(object_key)
    return part_id, object_key


def _part_in(upload: UploadRecord, object_key: str) -> str:
    """The ID of the part that a place was opened for. Raises InvalidRequest when it was for another upload."""
    try:
        tenant, upload_hex, part_hex = parse_part_key(object_key)
        part_id = raw_id_of("part", part_hex)
        created_at_of(part_id)
    except ValueError:
        raise _no_such_place(object_key) from None
    if (tenant, upload_hex) != (upload.tenant, uuid_hex_of(upload.raw_id)):
        raise _no_such_place(object_key)
    return part_id


def _no_such_place(object_key: str) -> ApiError:
    return InvalidRequest(f"No such place of a part: {object_key}", param="object_key")
