"""Uploads: the commands of file-store for files that come in parts, and the objects a client sees.

Source of the objects: https://platform.openai.com/docs/api-reference/uploads/object
"""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.files import ExpiresAfter, File, Purpose

MAX_PARTS = 10_000
"""Of one upload: their IDs have to fit into one message."""


class UploadStatus(StrEnum):
    """Where an upload stands; all but `pending` are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Upload(Contract):
    """The Upload object of the API. Times are Unix seconds, `bytes` is the size that was announced.

    `file` is there once the upload is completed, and as long as the file is.
    """

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: UploadStatus
    file: File | None = None


class UploadPart(Contract):
    """The UploadPart object of the API."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class PartPlace(Contract):
    """A place in the object store for one part of at most `max_bytes`, and the ID the part will have once claimed."""

    object_key: str
    part_id: str
    max_bytes: int


class CreateUpload(Command[Upload]):
    """Announce a file of `bytes` that will come in parts. `expires_after` is the file's, None for its purpose's."""

    noun: ClassVar = "uploads"
    verb: ClassVar = "create"
    result: ClassVar = Upload

    filename: str = Field(min_length=1, max_length=1024)
    purpose: Purpose
    bytes: int = Field(ge=1)
    model: str | None = Field(default=None, min_length=1, max_length=512)
    expires_after: ExpiresAfter | None = None


class GetUpload(Command[Upload]):
    noun: ClassVar = "uploads"
    verb: ClassVar = "get"
    result: ClassVar = Upload

    upload_id: str


class OpenPart(Command[PartPlace]):
    """Reserve a place for one part's bytes. Nothing is recorded until `AddPart` claims it."""

    noun: ClassVar = "uploads"
    verb: ClassVar = "open_part"
    result: ClassVar = PartPlace

    upload_id: str


class AddPart(Command[UploadPart]):
    """Claim the bytes in a place of `OpenPart` as a part. Idempotent: claiming again answers the same part.

    `newlines` is how many there are in it, if the sender has counted them.
    """

    noun: ClassVar = "uploads"
    verb: ClassVar = "add_part"
    result: ClassVar = UploadPart

    upload_id: str
    object_key: str
    newlines: int | None = Field(default=None, ge=0)


class CompleteUpload(Command[Upload]):
    """Join parts, in this order, into a file. Idempotent: the same parts again answer the same completed upload.

    An answer with status `pending` says that the parts are still being joined after `wait` seconds: ask again.
    `model` is for an upload that was created without one; `md5` is 32 hexadecimal digits.
    """

    noun: ClassVar = "uploads"
    verb: ClassVar = "complete"
    result: ClassVar = Upload

    upload_id: str
    part_ids: tuple[str, ...] = Field(max_length=MAX_PARTS)
    md5: str | None = Field(default=None, pattern="^[0-9a-fA-F]{32}$")
    model: str | None = Field(default=None, min_length=1, max_length=512)
    wait: float = Field(default=5.0, ge=0, le=60)


class CancelUpload(Command[Upload]):
    """End an upload without a file. A second cancel answers like the first."""

    noun: ClassVar = "uploads"
    verb: ClassVar = "cancel"
    result: ClassVar = Upload

    upload_id: str
