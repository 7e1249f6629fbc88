"""The bodies of `/v1/webhook_endpoints…`, as OpenAI's API has them.

Source: https://platform.openai.com/docs/api-reference/webhook-endpoints, and `openai.types.webhooks` of the SDK.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from batchyard.gateway.validation import refuse, unsupported_value
from batchyard.gateway.webhooks.addresses import MAX_URL_CHARACTERS
from batchyard.gateway.webhooks.message import EventType

MAX_NAME_CHARACTERS = 256
_TYPES = tuple(map(str, EventType))


def _event_type(value: str) -> str:
    if value not in _TYPES:
        refuse(unsupported_value(value, _TYPES))
    return value


def _once_each(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


Type = Annotated[str, AfterValidator(_event_type), WithJsonSchema({"type": "string", "enum": list(_TYPES)})]
Types = Annotated[list[Type], Field(min_length=1, max_length=len(_TYPES) * 2), AfterValidator(_once_each)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL_CHARACTERS)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewEndpoint(_Request):
    """A new endpoint."""

    name: Name
    url: Url = Field(description="https://, or http:// where nobody else listens")
    event_types: Types = Field(description="Of what it hears")


class UpdateEndpoint(_Request):
    """What is to be otherwise. What is left out stays as it is."""

    name: Name | None = None
    url: Url | None = None
    event_types: Types | None = Field(default=None, description="The whole of what it hears of")

    def said(self) -> dict[str, Any]:
        """The members of an endpoint that are named, with their values."""
        said = self.model_dump(exclude_none=True)
        if self.event_types is not None:
            said["event_types"] = tuple(self.event_types)
        return said


class RotateSecret(_Request):
    """A new secret for an endpoint."""

    keep_old_secret_active_for_24_hours: bool = Field(
        default=False, description="Sign with the old secret too, for so long"
    )


class SendSample(_Request):
    """A sample of an event."""

    event_type: Type
