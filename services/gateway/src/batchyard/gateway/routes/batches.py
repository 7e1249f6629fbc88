"""Batches: https://platform.openai.com/docs/api-reference/batch"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

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
from batchyard.gateway.batch_request import BatchRequest
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.retry_headers import retries_of

router = APIRouter(tags=["Batches"])


@router.post("/batches", openapi_extra=json_body(BatchRequest))
async def create_batch(request: Request, caller: TheCaller) -> Batch | BatchValidation:
    """Start a batch over an uploaded file of purpose `batch`, or over `requests`.

    The header `Idempotency-Key` (up to 255 characters, remembered for a day) makes it safe to send again: the same key
    with the same body answers the same batch, with another body 409. With `dry_run` nothing is made: the answer says
    what would be wrong with the lines.
    """
    return await creating.create_batch(request, caller)


@router.get("/batches")
async def list_batches(
    caller: TheCaller,
    limit: Annotated[int, Query(ge=0, le=BATCH_LIST_MAX, description="0 is an empty page")] = 20,
    after: Annotated[str | None, Query(description="The ID after which the page begins")] = None,
) -> BatchPage:
    """The batches, newest first."""
    return await caller.call(ListBatches(limit=limit, after=after or None))


@router.get("/batches/{batch_id}")
async def get_batch(batch_id: str, caller: TheCaller) -> Batch:
    """One batch: its counts and usage are live while it runs."""
    return await caller.call(GetBatch(batch_id=batch_id))


@router.post("/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: str, request: Request, caller: TheCaller) -> Batch:
    """Cancel a batch. What has been answered by then is kept."""
    return await caller.call(CancelBatch(batch_id=batch_id, again=bool(retries_of(request))))
