"""The record of a file, and its place in the KV bucket."""

from pydantic import BaseModel, ConfigDict

from batchyard.common.contracts.files import File, Purpose
from batchyard.common.ids import encode_id
from batchyard.common.subjects import encode_token


class FileRecord(BaseModel):
    """What is kept of a file. Never changed once written; `created_at` and `expires_at` are Unix seconds.

    `lines` were counted while it came in, blank ones too; None if nobody did.
    """

    model_config = ConfigDict(frozen=True)

    raw_id: str
    tenant: str
    filename: str
    purpose: Purpose
    bytes: int
    etag: str
    object_key: str
    model: str | None = None
    created_at: int
    expires_at: int | None = None
    lines: int | None = None

    @property
    def key(self) -> str:
        return record_key(self.tenant, self.raw_id)

    @property
    def public_id(self) -> str:
        """The ID that clients see: it carries the model, if the file has one."""
        return encode_id("file", self.raw_id, self.model)

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    def as_file(self) -> File:
        """The File object of the API."""
        return File(
            id=self.public_id,
            bytes=self.bytes,
            created_at=self.created_at,
            expires_at=self.expires_at,
            filename=self.filename,
            purpose=self.purpose,
        )


def record_key(tenant: str, raw_id: str) -> str:
    """Where the record of a tenant's file lies: nobody else's ID can name it."""
    return f"{records_prefix(tenant)}.{raw_id}"


def records_prefix(tenant: str) -> str:
    """The first token of all of a tenant's records."""
    return encode_token(tenant)
