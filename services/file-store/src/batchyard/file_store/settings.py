"""What file-store needs to know beyond what every service does. Times are in seconds, sizes in bytes."""

from pydantic import Field

from batchyard.common.contracts.uploads import MAX_PARTS
from batchyard.common.first_line import DEFAULT_MAX_BYTES
from batchyard.common.settings import Settings
from batchyard.file_store.upload import UploadLimits

_MIB = 1024 * 1024


class FileStoreSettings(Settings):
    """Settings of file-store, from `BATCHYARD_*`."""

    expiry_interval: float = Field(default=60.0, gt=0, description="between two looks for what has expired or ended")
    sweep_interval: float = Field(default=3600.0, gt=0, description="between two looks for bytes never claimed")
    recount_interval: float = Field(
        default=300.0, gt=0, description="between two comparisons of what is counted for storage quotas with the files"
    )
    unclaimed_upload_max_age: float = Field(
        default=86_400.0,
        gt=0,
        description="for which stored bytes may be claimed as a file; shortly after, they are deleted",
    )
    upload_url_lifetime: float = Field(
        default=900.0, ge=1, le=7 * 86_400, description="for which a presigned URL takes or gives the bytes of a file"
    )
    upload_lifetime: float = Field(default=3600.0, ge=1, description="in which an upload in parts must be completed")
    max_upload_bytes: int = Field(default=8192 * _MIB, ge=1, description="of a file that comes in parts")
    max_upload_part_bytes: int = Field(default=64 * _MIB, ge=1, description="of one part")
    max_upload_parts: int = Field(default=MAX_PARTS, ge=1, le=MAX_PARTS, description="of one upload")
    max_first_line_bytes: int = Field(
        default=DEFAULT_MAX_BYTES,
        ge=1,
        description="of a batch input in parts; a longer first line is not checked at completion but by the batch",
    )

    @property
    def upload_limits(self) -> UploadLimits:
        return UploadLimits(
            lifetime=self.upload_lifetime,
            max_bytes=self.max_upload_bytes,
            max_part_bytes=self.max_upload_part_bytes,
            max_parts=self.max_upload_parts,
        )
