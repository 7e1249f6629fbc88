"""What the gateway can be told beyond what every service is told."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from pydantic import Field, field_validator

from batchyard.common.first_line import DEFAULT_MAX_BYTES
from batchyard.common.messaging.commands import DEFAULT_TIMEOUT
from batchyard.common.settings import Settings

KIB = 1024
MIB = 1024 * KIB

FORM_OVERHEAD_BYTES = MIB
"""What a form may hold beside its file."""


class GatewaySettings(Settings):
    """Sizes are in bytes, times in seconds."""

    host: str = Field(default="127.0.0.1", description="the address to listen on; 0.0.0.0 is every interface")
    port: int = Field(default=4000, ge=0, le=65_535, description="0: any free port")
    port_file: Path | None = Field(default=None, description="where the port is written once the gateway listens")

    max_file_bytes: int = Field(default=512 * MIB, ge=1, description="of any file")
    max_batch_file_bytes: int = Field(default=200 * MIB, ge=1, description="for files of purpose batch")
    max_first_line_bytes: int = Field(
        default=DEFAULT_MAX_BYTES, ge=1, description="a longer first line is not checked at upload but by the batch"
    )
    max_form_fields: int = Field(default=64, ge=1, description="in one upload")
    max_form_field_bytes: int = Field(default=64 * KIB, ge=1, description="of a field that is not the file")
    max_body_bytes: int = Field(default=MIB, ge=1, description="of a request that is not an upload")
    max_inline_body_bytes: int = Field(
        default=8 * MIB, ge=1, description="of a request that brings the lines of a batch along"
    )
    inline_slots: int = Field(default=2, ge=1, description="such requests that are taken apart at a time")

    max_head_bytes: int = Field(default=64 * KIB, ge=KIB, description="of a request's URL and headers together")

    max_webhook_endpoints: int = Field(default=20, ge=1, le=100, description="of one team")
    webhook_timeout: float = Field(default=10.0, gt=0, description="for an endpoint of webhooks to answer")
    webhook_first_retry: float = Field(
        default=5.0,
        gt=0,
        description="until a webhook is sent again; each wait is twice the one before, up to 4 hours",
    )
    webhook_max_age: float = Field(default=72 * 3600.0, gt=0, description="for which a webhook is sent again and again")
    webhook_slots: int = Field(default=64, ge=1, description="webhooks that are sent at a time")
    webhook_allowed_networks: str = Field(
        default="",
        description="networks that are not public and to which webhooks are sent all the same, comma-separated: "
        "10.0.0.0/8,192.168.1.7/32",
    )

    command_timeout: float = Field(default=DEFAULT_TIMEOUT, gt=0, description="for a service to answer")
    validation_timeout: float = Field(default=300.0, gt=0, description="for a dry run, which reads the whole input")
    completion_timeout: float = Field(default=300.0, gt=0, description="for the parts of an upload to be joined")
    health_timeout: float = Field(default=2.0, gt=0, description="for each service to say how it is")
    read_timeout: float = Field(
        default=60.0, gt=0, description="for a request's head, and between two chunks of its body"
    )
    keep_alive_timeout: int = Field(default=75, ge=1, description="for which an idle connection stays open")
    shutdown_timeout: int = Field(default=20, ge=0, description="for running requests to end after a stop")

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _names_networks(cls, value: str) -> str:
        _networks(value)
        return value

    @property
    def webhook_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of `webhook_allowed_networks`."""
        return _networks(self.webhook_allowed_networks)


def _networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Raises ValueError."""
    return tuple(ip_network(network.strip()) for network in value.split(",") if network.strip())
