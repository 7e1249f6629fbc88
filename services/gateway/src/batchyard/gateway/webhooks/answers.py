"""Endpoints as the API shows them: OpenAI's members, then ours. Times are Unix seconds."""

from typing import Literal

from pydantic import BaseModel

from batchyard.gateway.webhooks.endpoint import WebhookEndpoint

_SHOWN_CHARACTERS = 4


class ShownEndpoint(BaseModel):
    """An endpoint. `disabled_at` is when it answered 410: nothing is sent there until an update names a `url`."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    disabled_at: int | None = None


class EndpointWithSecret(ShownEndpoint):
    """An endpoint with its new secret, which is shown this once."""

    signing_secret: str


class EndpointPage(BaseModel):
    """Endpoints, the newest first."""

    object: Literal["list"] = "list"
    data: list[ShownEndpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedEndpoint(BaseModel):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class SampleResult(BaseModel):
    """What the endpoint answered to a sample, whatever that was."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    success: Literal[True] = True
    status_code: int


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]


def shown(endpoint: WebhookEndpoint) -> ShownEndpoint:
    return ShownEndpoint(
        id=endpoint.id,
        created_at=int(endpoint.created_at),
        updated_at=int(endpoint.updated_at),
        name=endpoint.name,
        url=endpoint.url,
        event_types=list(endpoint.event_types),
        signing_secret_hint=f"whsec_...{endpoint.signing_secret[-_SHOWN_CHARACTERS:]}",
        disabled_at=None if endpoint.disabled_at is None else int(endpoint.disabled_at),
    )


def with_secret(endpoint: WebhookEndpoint) -> EndpointWithSecret:
    return EndpointWithSecret(**shown(endpoint).model_dump(), signing_secret=endpoint.signing_secret)


def page_of(endpoints: tuple[WebhookEndpoint, ...], limit: int, after: str | None) -> EndpointPage:
    """The page that begins after an ID, of endpoints whose IDs sort by their making."""
    newest = sorted(endpoints, key=lambda endpoint: endpoint.id, reverse=True)
    following = [endpoint for endpoint in newest if after is None or endpoint.id < after]
    data = [shown(endpoint) for endpoint in following[:limit]]
    return EndpointPage(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(following) > limit,
    )
