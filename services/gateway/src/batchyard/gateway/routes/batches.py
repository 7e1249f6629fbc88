"""Batches: https://platform.openai.com/docs/api-reference/batch"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from batchyard.common.contracts.batches import (
    BATCH_LIST_MAX,
    Batch,
    BatchPage,
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
)
from batchyard.common.contracts.files import ExpiresAfter
from batchyard.gateway.batch_request import BatchRequest, parse_batch_request
from batchyard.gateway.bodies import read_body
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.model_choice import choose_model
from batchyard.gateway.request_bodies import json_body

router = APIRouter(tags=["Batches"])


@router.post("/batches", openapi_extra=json_body(BatchRequest))
async def create_batch(request: Request, caller: TheCaller) -> Batch:
    """Start a batch over an uploaded file of purpose `batch`."""
    settings = caller.gateway.settings
    body = await read_body(request, max_bytes=settings.max_body_bytes, read_timeout=settings.read_timeout)
    wanted = parse_batch_request(body)
    expiry = wanted.output_expires_after
    return await caller.call(
        CreateBatch(
            input_file_id=wanted.input_file_id,
            endpoint=wanted.endpoint,
            completion_window=wanted.completion_window,
            metadata=wanted.metadata,
            output_expires_after=None if expiry is None else ExpiresAfter(seconds=expiry.seconds),
            model=choose_model(request, [wanted.model] if wanted.model else []),
            key_alias=caller.identity.key_alias,
        )
    )


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
async def cancel_batch(batch_id: str, caller: TheCaller) -> Batch:
    """Cancel a batch. What has been answered by then is kept."""
    return await caller.call(CancelBatch(batch_id=batch_id))
