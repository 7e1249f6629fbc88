"""Files: the commands of file-store, and the object a client sees.

Source of the object: https://platform.openai.com/docs/api-reference/files/object
"""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from batchyard.common.contracts.base import Command, Contract

FILE_LIST_MAX = 10_000


class Purpose(StrEnum):
    """What a file is for. `batch_output` is given by Batchyard alone."""

    BATCH = "batch"
    ASSISTANTS = "assistants"
    FINE_TUNE = "fine-tune"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"
    BATCH_OUTPUT = "batch_output"


UPLOAD_PURPOSES = tuple(purpose for purpose in Purpose if purpose is not Purpose.BATCH_OUTPUT)


class ExpiresAfter(Contract):
    """When a file goes by itself: `seconds` after its creation."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=3600, le=2_592_000)


class File(Contract):
    """The File object of the API. Times are Unix seconds, `bytes` is the size."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None


class FilePage(Contract):
    """One page of a listing."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class DeletedFile(Contract):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class Place(Contract):
    """A place in the object store to put one file's bytes, and the ID the file will have once claimed.

    With `upload_url`, whoever has that URL may `PUT` the bytes there, in one request that begins before
    `upload_url_expires_at` (Unix seconds). Each request replaces the bytes: claim them only when it has been answered.
    `room` is how many bytes the team's storage quota has left now; None without one.
    """

    object_key: str
    file_id: str
    upload_url: str | None = None
    upload_url_expires_at: int | None = None
    room: int | None = None


class Download(Contract):
    """Where a file's bytes are. `raw_id` and `model` are what the record holds, not what the caller's ID said.

    With `download_url`, whoever has that URL may `GET` the bytes, also in ranges, until `download_url_expires_at`
    (Unix seconds). `lines` were counted while the file came in; None for one that nobody has counted.
    """

    file: File
    raw_id: str
    model: str | None
    object_key: str
    etag: str
    download_url: str | None = None
    download_url_expires_at: int | None = None
    lines: int | None = None


class OpenPlace(Command[Place]):
    """Reserve a place for one file's bytes. Nothing is recorded: one never claimed by `CreateFile` is swept.

    `presigned` asks for a URL too, for a caller without credentials for the object store. A store that is a folder has
    none: the answer is then an error with the code `presigned_unsupported`.
    """

    noun: ClassVar = "files"
    verb: ClassVar = "open_place"
    result: ClassVar = Place

    presigned: bool = False


class CreateFile(Command[File]):
    """Claim uploaded bytes as a file. Idempotent by `object_key`: claiming again answers the same file.

    Exactly one of `object_key` (from `OpenPlace`) and `content` (a small text, inline) is given. `model` is
    encoded into the public ID. `expires_after` None means the purpose's default. `lines` is how many there are, blank
    ones too, if the sender has counted them.
    """

    noun: ClassVar = "files"
    verb: ClassVar = "create"
    result: ClassVar = File

    filename: str = Field(min_length=1, max_length=1024)
    purpose: Purpose
    object_key: str | None = None
    content: str | None = Field(default=None, max_length=512 * 1024)
    model: str | None = Field(default=None, min_length=1, max_length=512)
    expires_after: ExpiresAfter | None = None
    lines: int | None = Field(default=None, ge=0)


class GetFile(Command[File]):
    noun: ClassVar = "files"
    verb: ClassVar = "get"
    result: ClassVar = File

    file_id: str


class ListFiles(Command[FilePage]):
    noun: ClassVar = "files"
    verb: ClassVar = "list"
    result: ClassVar = FilePage

    purpose: str | None = None
    limit: int = Field(default=FILE_LIST_MAX, ge=1, le=FILE_LIST_MAX)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class DeleteFile(Command[DeletedFile]):
    noun: ClassVar = "files"
    verb: ClassVar = "delete"
    result: ClassVar = DeletedFile

    file_id: str


class OpenDownload(Command[Download]):
    """Ask where a file's bytes are. `presigned` asks for a URL too, as with `OpenPlace`."""

    noun: ClassVar = "files"
    verb: ClassVar = "open_download"
    result: ClassVar = Download

    file_id: str
    presigned: bool = False


class StorageReport(Contract):
    """How much a team has stored: files, and what is announced or on its way. None: there is no quota, so nobody
    counts."""

    object: Literal["storage"] = "storage"
    max_storage_bytes: int | None = None
    used_bytes: int | None = None


class GetStorage(Command[StorageReport]):
    """How much of the team's storage quota is used."""

    noun: ClassVar = "files"
    verb: ClassVar = "storage"
    result: ClassVar = StorageReport
