"""Webhooks: https://platform.openai.com/docs/api-reference/webhook-endpoints"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from batchyard.common.errors import InvalidRequest, TooManyRequests
from batchyard.gateway.access_request import B, parse
from batchyard.gateway.auth import TEAM_HEADER
from batchyard.gateway.bodies import read_body, read_json
from batchyard.gateway.caller import Caller, TheCaller
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.webhooks.answers import (
    DeletedEndpoint,
    EndpointPage,
    EndpointWithSecret,
    EventTypeList,
    SampleResult,
    ShownEndpoint,
    page_of,
    shown,
    with_secret,
)
from batchyard.gateway.webhooks.endpoint import OPERATOR
from batchyard.gateway.webhooks.message import EventType, sample_of
from batchyard.gateway.webhooks.request import NewEndpoint, RotateSecret, SendSample, UpdateEndpoint
from batchyard.gateway.webhooks.sender import Unreachable

router = APIRouter(tags=["Webhooks"])

MAX_PAGE = 100


@router.get("/webhook_event_types")
async def list_webhook_event_types(_caller: TheCaller) -> EventTypeList:
    """What endpoints may hear of."""
    return EventTypeList(data=list(map(str, EventType)))


@router.post("/webhook_endpoints", openapi_extra=json_body(NewEndpoint))
async def create_webhook_endpoint(request: Request, caller: TheCaller) -> EndpointWithSecret:
    """A new endpoint of the team's. Its signing secret is in the answer, and shown at no other time.

    The master key, where it acts for no team, makes one that hears of all teams.
    """
    wanted = await _body(NewEndpoint, request, caller)
    caller.gateway.webhooks.addresses.check_url(wanted.url)
    return with_secret(await caller.gateway.webhooks.endpoints.create(_team(request, caller), wanted))


@router.get("/webhook_endpoints")
async def list_webhook_endpoints(
    request: Request,
    caller: TheCaller,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    after: Annotated[str | None, Query(description="The ID after which the page begins")] = None,
) -> EndpointPage:
    """The team's endpoints, newest first."""
    endpoints = await caller.gateway.webhooks.endpoints.of(_team(request, caller))
    return page_of(endpoints, limit, after or None)


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
async def get_webhook_endpoint(webhook_endpoint_id: str, request: Request, caller: TheCaller) -> ShownEndpoint:
    """One endpoint."""
    return shown(await caller.gateway.webhooks.endpoints.get(_team(request, caller), webhook_endpoint_id))


@router.post("/webhook_endpoints/{webhook_endpoint_id}", openapi_extra=json_body(UpdateEndpoint))
async def update_webhook_endpoint(webhook_endpoint_id: str, request: Request, caller: TheCaller) -> ShownEndpoint:
    """Change an endpoint. One that answered 410 is sent to again once it is given a `url`."""
    wanted = await _body(UpdateEndpoint, request, caller)
    if wanted.url is not None:
        caller.gateway.webhooks.addresses.check_url(wanted.url)
    endpoints = caller.gateway.webhooks.endpoints
    return shown(await endpoints.update(_team(request, caller), webhook_endpoint_id, wanted))


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
async def delete_webhook_endpoint(webhook_endpoint_id: str, request: Request, caller: TheCaller) -> DeletedEndpoint:
    """Remove an endpoint. What was not delivered by then is not sent."""
    await caller.gateway.webhooks.endpoints.delete(_team(request, caller), webhook_endpoint_id)
    return DeletedEndpoint(id=webhook_endpoint_id)


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/rotate_secret", openapi_extra=json_body(RotateSecret, required=False)
)
async def rotate_webhook_secret(webhook_endpoint_id: str, request: Request, caller: TheCaller) -> EndpointWithSecret:
    """A new signing secret. The old one ends at once, or signs as well for 24 hours."""
    settings = caller.gateway.settings
    body = await read_body(
        request, max_bytes=settings.max_body_bytes, read_timeout=settings.read_timeout, may_be_empty=True
    )
    wanted = parse(RotateSecret, body or b"{}")
    rotated = await caller.gateway.webhooks.endpoints.rotate(
        _team(request, caller), webhook_endpoint_id, keep_old=wanted.keep_old_secret_active_for_24_hours
    )
    return with_secret(rotated)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test", openapi_extra=json_body(SendSample))
async def test_webhook_endpoint(webhook_endpoint_id: str, request: Request, caller: TheCaller) -> SampleResult:
    """Send a sample once, signed as any event, and say what the endpoint answered."""
    wanted, team = await _body(SendSample, request, caller), _team(request, caller)
    webhooks = caller.gateway.webhooks
    endpoint, now = await webhooks.endpoints.get(team, webhook_endpoint_id), caller.gateway.clock.now()
    sample = sample_of(EventType(wanted.event_type), caller.identity.tenant, now)
    with webhooks.places.take(team, endpoint.id) as has_place:
        if not has_place:
            raise TooManyRequests("Too much is being sent to this endpoint. Please retry shortly.", retry_after=1)
        try:
            status = await webhooks.sender.send(endpoint, sample, now)
        except Unreachable as error:
            raise InvalidRequest(
                f"The endpoint could not be reached: {error}.", param="url", code="webhook_endpoint_unreachable"
            ) from error
    return SampleResult(webhook_endpoint_id=endpoint.id, event_type=str(sample.type), status_code=status)


async def _body(model: type[B], request: Request, caller: Caller) -> B:
    return parse(model, await read_json(request, caller.gateway.settings))


def _team(request: Request, caller: Caller) -> str:
    """Whose endpoints are meant: the caller's team's, or for who administrates and acts for none, the operator's."""
    acts_for_none = caller.identity.is_admin and TEAM_HEADER not in request.headers
    return OPERATOR if acts_for_none else caller.identity.tenant
