"""Settings of a process, from `BATCHYARD_*` environment variables. Each service adds its own to these."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class Settings(BaseSettings):
    """What every service needs to know."""

    model_config = SettingsConfigDict(env_prefix="BATCHYARD_", extra="ignore", frozen=True)

    config: Path | None = Field(
        default=None,
        description="LiteLLM's config.yaml; without one, HOSTED_VLLM_API_BASE names the one server there is",
    )
    config_poll_interval: float = Field(
        default=1.0, gt=0, description="seconds between looks at whether the file has changed; SIGHUP is heeded at once"
    )

    nats_url: str = Field(default="nats://127.0.0.1:4222", description="comma-separated server URLs, without secrets")
    nats_user: str | None = Field(default=None, description="for NATS, with a password")
    nats_password: SecretStr | None = Field(default=None, description="for NATS, with a user")
    nats_token: SecretStr | None = Field(default=None, description="for NATS, instead of user and password")
    nats_replicas: int = Field(default=1, ge=1, le=5, description="copies of each stream and bucket in a NATS cluster")
    nats_storage: Literal["file", "memory"] = Field(
        default="file",
        description="where NATS keeps streams and buckets; what is in memory is lost with the last of their servers",
    )
    nats_bucket_bytes: int | None = Field(
        default=None, ge=MIB, description="room set aside for each bucket; absent: what the server has in all"
    )

    declare_topology: bool = Field(
        default=True,
        description="make the streams and buckets that are not there; false: wait until `batchyard topology` has",
    )

    object_store: str = Field(
        default="file:///var/lib/batchyard/objects",
        description="file:///directory, or s3://bucket?endpoint=http://host:9000",
    )
    object_store_access_key: str | None = Field(default=None, description="for S3")
    object_store_secret_key: SecretStr | None = Field(default=None, description="for S3")

    work_ack_wait: float = Field(
        default=30.0,
        ge=1,
        description="seconds without a sign of life after which a shard or step goes to another runner",
    )
    idempotency_max_age: float = Field(
        default=86_400, ge=1, description="seconds for which the Idempotency-Key of a new batch is remembered"
    )
    events_max_age: float = Field(default=30 * 86_400, gt=0, description="seconds for which events are kept")
    events_max_bytes: int | None = Field(
        default=None,
        ge=MIB,
        description="bytes of events that are kept at most, billed or not: the oldest go; absent: all of that age",
    )

    webhooks_max_bytes: int | None = Field(
        default=None,
        ge=MIB,
        description="bytes of webhooks that wait to be delivered at most; further events then wait in their stream; "
        "absent: what the server has",
    )

    operations_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="where `/metrics`, `/health/liveness` and `/health/readiness` are answered without a key; "
        "0: any free port; absent: nowhere",
    )
    operations_host: str = Field(
        default="127.0.0.1", description="the address of that port; 0.0.0.0 is every interface"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    log_format: Literal["json", "console"] = Field(default="json", description="json or console")

    @property
    def nats_servers(self) -> list[str]:
        return [url.strip() for url in self.nats_url.split(",") if url.strip()]
