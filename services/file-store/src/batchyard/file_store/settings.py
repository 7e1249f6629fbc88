"""What file-store needs to know beyond what every service does. All times are in seconds."""

from pydantic import Field

from batchyard.common.settings import Settings


class FileStoreSettings(Settings):
    """Settings of file-store, from `BATCHYARD_*`."""

    expiry_interval: float = Field(default=60.0, gt=0, description="between two looks for files that have expired")
    sweep_interval: float = Field(default=3600.0, gt=0, description="between two looks for uploads never claimed")
    unclaimed_upload_max_age: float = Field(
        default=86_400.0,
        gt=0,
        description="for which an upload may be claimed as a file; shortly after, its bytes are deleted",
    )
