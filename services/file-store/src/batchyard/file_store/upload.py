"""An upload, its life as functions from record to record, and the places of the records.

    pending ──► completed     the parts are joined: the record holds the file's record, which is written after it
       ├──────► cancelled
       └──────► expired

An upload that has ended is cleared (its parts are removed), and forgotten a day later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from pydantic import BaseModel, ConfigDict

from batchyard.common.contracts.files import ExpiresAfter, File, Purpose
from batchyard.common.contracts.uploads import Upload, UploadPart, UploadStatus
from batchyard.common.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge
from batchyard.common.ids import created_at_of
from batchyard.file_store.store import FileRecord, record_key


class UploadRecord(BaseModel):
    """What is kept of an upload. Its parts have records of their own: there may be thousands.

    Attributes:
        bytes: The file's size as it was announced.
        expires_at: The Unix second from which a pending upload is expired.
        expires_after: Seconds that its file will live; None for the default of its purpose.
        parts: Parts counted so far; at least as many as there are.
        received: Bytes in them.
        chosen: A digest of the IDs of the parts it was completed with.
        file: The record of its file, once completed.
        ended_at: The Unix second at which it left `pending`.
        is_cleared: Whether nothing is left of its parts.
    """

    model_config = ConfigDict(frozen=True)

    raw_id: str
    tenant: str
    filename: str
    purpose: Purpose
    bytes: int
    model: str | None = None
    expires_at: int
    expires_after: int | None = None
    status: UploadStatus = UploadStatus.PENDING
    parts: int = 0
    received: int = 0
    chosen: str | None = None
    file: FileRecord | None = None
    ended_at: int | None = None
    is_cleared: bool = False

    @property
    def key(self) -> str:
        return record_key(self.tenant, self.raw_id)

    @property
    def file_lifetime(self) -> ExpiresAfter | None:
        return None if self.expires_after is None else ExpiresAfter(seconds=self.expires_after)

    def status_at(self, now: float) -> UploadStatus:
        """The status as of `now`: nobody need have written down that the time is over."""
        if self.status is UploadStatus.PENDING and now >= self.expires_at:
            return UploadStatus.EXPIRED
        return self.status

    def as_upload(self, now: float, file: File | None = None) -> Upload:
        """The Upload object of the API."""
        return Upload(
            id=self.raw_id,
            bytes=self.bytes,
            created_at=created_at_of(self.raw_id),
            expires_at=self.expires_at,
            filename=self.filename,
            purpose=self.purpose,
            status=self.status_at(now),
            file=file,
        )


class PartRecord(BaseModel):
    """What is kept of a part; its key says the rest. `newlines` is None if nobody has counted them."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    newlines: int | None = None


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Sizes are in bytes, `lifetime` in seconds."""

    lifetime: float
    max_bytes: int
    max_part_bytes: int
    max_parts: int


def part_record_key(upload: UploadRecord, part_id: str) -> str:
    """Where the record of a part lies: below its upload's, so that no ID of another upload's part can name it."""
    return f"{upload.key}.{part_id}"


def as_part(upload: UploadRecord, part_id: str) -> UploadPart:
    """The UploadPart object of the API."""
    return UploadPart(id=part_id, created_at=created_at_of(part_id), upload_id=upload.raw_id)


def digest_of(part_ids: tuple[str, ...]) -> str:
    """What stands for an order of parts in the record."""
    return sha256("\n".join(part_ids).encode()).hexdigest()


def check_pending(upload: UploadRecord, now: float, wish: str) -> None:
    """Raise InvalidRequest when an upload has ended; `wish` is what was to be done with it."""
    status = upload.status_at(now)
    if status is not UploadStatus.PENDING:
        raise InvalidRequest(f"Cannot {wish} an upload with status '{status}'.", param="id", code=f"upload_{status}")


def check_part_size(size: int, max_bytes: int) -> None:
    """Raises InvalidRequest for an empty part, PayloadTooLarge for one that is too large."""
    if size == 0:
        raise InvalidRequest("The part is empty.", param="data", code="empty_part")
    if size > max_bytes:
        raise PayloadTooLarge(f"The part is too large: at most {max_bytes} bytes are accepted.", param="data")


def with_part(upload: UploadRecord, size: int, now: float, limits: UploadLimits) -> UploadRecord:
    """The upload with one more part counted. Raises InvalidRequest or PayloadTooLarge."""
    check_pending(upload, now, "add a part to")
    if upload.parts >= limits.max_parts:
        raise InvalidRequest(
            f"An upload has at most {limits.max_parts} parts. Please send larger ones.",
            param="id",
            code="too_many_parts",
        )
    received = upload.received + size
    # A part whose answer was lost is sent again and counts twice: only who sends everything twice is stopped.
    if received > 2 * limits.max_bytes:
        raise PayloadTooLarge(f"The upload has received more than {2 * limits.max_bytes} bytes.", param="data")
    return upload.model_copy(update={"parts": upload.parts + 1, "received": received})


def check_choice(upload: UploadRecord, sizes: list[int]) -> None:
    """Raise InvalidRequest unless the parts chosen hold as many bytes as were announced."""
    if sum(sizes) != upload.bytes:
        raise InvalidRequest(
            f"The parts hold {sum(sizes)} bytes in total, but the upload was created for {upload.bytes} bytes.",
            param="part_ids",
            code="size_mismatch",
        )


def lines_in(parts: Sequence[PartRecord]) -> int | None:
    """The lines that parts hold together, if all were counted: as many as newlines, but at least one."""
    counts = [part.newlines for part in parts if part.newlines is not None]
    return max(1, sum(counts)) if len(counts) == len(parts) else None


def completed(upload: UploadRecord, file: FileRecord, chosen: str, now: float) -> UploadRecord:
    """The upload with its file. One that was completed with the same parts stays as it is: the first file wins.

    An upload whose time ran out while its parts were joined is completed all the same.

    Raises:
        InvalidRequest: It ended otherwise.
    """
    if upload.status is UploadStatus.PENDING:
        return _ended(upload, UploadStatus.COMPLETED, now).model_copy(update={"file": file, "chosen": chosen})
    check_chosen(upload, chosen, now)
    return upload


def check_chosen(upload: UploadRecord, chosen: str, now: float) -> None:
    """Raise InvalidRequest unless the upload was completed with these parts."""
    if upload.status is not UploadStatus.COMPLETED:
        check_pending(upload, now, "complete")
    if upload.chosen != chosen:
        raise InvalidRequest(
            "The upload has been completed with other parts, or in another order.",
            param="part_ids",
            code="upload_completed",
        )


def cancelled(upload: UploadRecord, now: float) -> UploadRecord:
    """The upload without a file. Raises InvalidRequest when it ended otherwise."""
    if upload.status is UploadStatus.CANCELLED:
        return upload
    check_pending(upload, now, "cancel")
    return _ended(upload, UploadStatus.CANCELLED, now)


def expired(upload: UploadRecord, now: float) -> UploadRecord:
    """The upload with its expiry written down, unless it has ended already."""
    return _ended(upload, UploadStatus.EXPIRED, now) if upload.status is UploadStatus.PENDING else upload


def _ended(upload: UploadRecord, status: UploadStatus, now: float) -> UploadRecord:
    return upload.model_copy(update={"status": status, "ended_at": int(now)})


def no_such_upload(upload_id: str) -> ApiError:
    return NotFound(f"No such Upload object: {upload_id}", param="id")
