"""The failed requests of a batch once more, which OpenAI's API does not have."""

from fastapi import APIRouter, Request

from batchyard.common.contracts.batches import Batch, RetryBatch
from batchyard.gateway.bodies import read_body
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.document import refusals
from batchyard.gateway.once import call_once
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.retry_headers import idempotency_key, retries_of
from batchyard.gateway.retry_request import RetryRequest, parse_retry_request

router = APIRouter(tags=["Batches"])


@router.post(
    "/batches/{batch_id}/retry", openapi_extra=json_body(RetryRequest, required=False), responses=refusals(409)
)
async def retry_batch(batch_id: str, request: Request, caller: TheCaller) -> Batch:
    """Start a new batch over the requests of an ended one that did not succeed. `Idempotency-Key` makes it safe to send
    again, as for any new batch."""
    key = idempotency_key(request)
    settings = caller.gateway.settings
    body = await read_body(
        request, max_bytes=settings.max_body_bytes, read_timeout=settings.read_timeout, may_be_empty=True
    )
    wanted = parse_retry_request(body)
    command = RetryBatch(
        batch_id=batch_id,
        completion_window=wanted.completion_window,
        metadata=wanted.metadata,
        key_models=caller.key_models,
        key_id=caller.identity.key_id,
        key_alias=caller.identity.key_alias,
        key_limits=caller.key_limits,
        idempotency_key=key,
    )
    return await call_once(command, retries_of(request), caller)
