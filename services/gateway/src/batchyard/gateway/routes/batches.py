"""Batches: https://platform.openai.com/docs/api-reference/batch"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from batchyard.common.contracts.batches import (
    BATCH_LIST_MAX,
    Batch,
    BatchPage,
    BatchValidation,
    CancelBatch,
    GetBatch,
    ListBatches,
)
from batchyard.gateway import creating
from batchyard.gateway.batch_filters import metadata, statuses
from batchyard.gateway.batch_request import BatchRequest
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.document import refusals
from batchyard.gateway.model_choice import MAX_MODEL_CHARACTERS
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.retry_headers import retries_of

LAST_SECOND = 253_402_300_799
"""The end of the year 9999: no second beyond it is meant."""

COST = "x-litellm-response-cost"
"""What LiteLLM's proxy calls it: https://docs.litellm.ai/docs/proxy/response_headers"""

_PRICED: dict[int | str, dict[str, Any]] = {
    200: {"headers": {COST: {"description": "The batch's `cost`, if it has one", "schema": {"type": "string"}}}}
}

router = APIRouter(tags=["Batches"])


@router.post("/batches", openapi_extra=json_body(BatchRequest), responses=refusals(404, 409))
async def create_batch(request: Request, caller: TheCaller) -> Batch | BatchValidation:
    """Start a batch over an uploaded file of purpose `batch`, or over `requests`.

    The header `Idempotency-Key` (up to 255 characters, remembered for a day) makes it safe to send again: the same key
    with the same body answers the same batch, with another body 409. With `dry_run` nothing is made: the answer says
    what would be wrong with the lines.
    """
    return await creating.create_batch(request, caller)


@router.get("/batches", responses=refusals(404))
async def list_batches(
    request: Request,
    caller: TheCaller,
    limit: Annotated[int, Query(ge=0, le=BATCH_LIST_MAX, description="0 is an empty page")] = 20,
    after: Annotated[str | None, Query(description="The ID after which the page begins")] = None,
    status: Annotated[list[str] | None, Query(description="Only these; repeated, or with commas between")] = None,
    model: Annotated[str | None, Query(max_length=MAX_MODEL_CHARACTERS, description="Only batches of this one")] = None,
    created_after: Annotated[int | None, Query(ge=0, le=LAST_SECOND, description="Unix seconds, included")] = None,
    created_before: Annotated[int | None, Query(ge=0, le=LAST_SECOND, description="Unix seconds, excluded")] = None,
) -> BatchPage:
    """The batches, newest first; with `metadata[key]=value`, those that carry each such pair."""
    return await caller.call(
        ListBatches(
            limit=limit,
            after=after or None,
            status=statuses([*(status or ()), *request.query_params.getlist("status[]")]),
            model=model or None,
            metadata=metadata(request.query_params),
            created_after=created_after,
            created_before=created_before,
        )
    )


@router.get("/batches/{batch_id}", responses=_PRICED)
async def get_batch(batch_id: str, response: Response, caller: TheCaller) -> Batch:
    """One batch: its counts, usage and cost are live while it runs."""
    return _priced(await caller.call(GetBatch(batch_id=batch_id)), response)


@router.post("/batches/{batch_id}/cancel", responses=_PRICED | refusals(409))
async def cancel_batch(batch_id: str, request: Request, response: Response, caller: TheCaller) -> Batch:
    """Cancel a batch. What has been answered by then is kept."""
    return _priced(await caller.call(CancelBatch(batch_id=batch_id, again=bool(retries_of(request)))), response)


def _priced(batch: Batch, response: Response) -> Batch:
    """The batch, its cost also in the header."""
    if batch.cost is not None:
        response.headers[COST] = format(batch.cost, "f")
    return batch
