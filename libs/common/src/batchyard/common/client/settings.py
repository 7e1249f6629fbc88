"""What a client needs to know, from `BATCHYARD_*` environment variables or given in code."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from batchyard.common.contracts.access import DEFAULT_TENANT
from batchyard.common.messaging.commands import DEFAULT_TIMEOUT


class ClientSettings(BaseSettings):
    """Where NATS is and who asks. With an object store the client moves bytes itself; see docs/nats.md."""

    model_config = SettingsConfigDict(env_prefix="BATCHYARD_", extra="ignore", frozen=True)

    nats_url: str = Field(default="nats://127.0.0.1:4222", description="comma-separated server URLs, without secrets")
    nats_user: str | None = Field(default=None, description="for NATS, with a password")
    nats_password: SecretStr | None = Field(default=None, description="for NATS, with a user")
    nats_token: SecretStr | None = Field(default=None, description="for NATS, instead of user and password")
    tenant: str = Field(default=DEFAULT_TENANT, min_length=1, description="whose files and batches these are")
    command_timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, description="seconds for a service to answer")
    connect_timeout: float = Field(default=30.0, gt=0, description="seconds for NATS to answer at first")

    object_store: str | None = Field(
        default=None,
        description="file:///directory or s3://bucket?endpoint=…, as the services have it; absent: URLs for each file",
    )
    object_store_access_key: str | None = Field(default=None, description="for S3")
    object_store_secret_key: SecretStr | None = Field(default=None, description="for S3")
