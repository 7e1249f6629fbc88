"""All results of a batch as one file, which OpenAI's API does not have."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from batchyard.gateway.batch_results import MEDIA_TYPE, Wanted, stream_results
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.document import refusals

router = APIRouter(tags=["Batches"])

_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A line for each request, in the order of the input", "content": {MEDIA_TYPE: {}}},
    **refusals(409),
}


@router.head("/batches/{batch_id}/results", include_in_schema=False)
@router.get("/batches/{batch_id}/results", response_class=Response, responses=_RESULTS)
async def get_batch_results(
    batch_id: str,
    request: Request,
    caller: TheCaller,
    status: Annotated[Wanted | None, Query(description="Only the requests that succeeded, or that did not")] = None,
) -> Response:
    """The results of an ended batch, successes and errors together in the order of the input."""
    return await stream_results(request, caller, batch_id, status)
