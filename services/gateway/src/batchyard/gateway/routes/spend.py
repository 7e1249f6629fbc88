"""Spend: what batches cost. The paths are LiteLLM's."""

from typing import Annotated

from fastapi import APIRouter, Query

from batchyard.common.contracts.billing import (
    SPEND_PAGE_MAX,
    GetSpend,
    GroupBy,
    LedgerPage,
    SpendReport,
    SummarizeSpend,
)
from batchyard.gateway.caller import TheCaller
from batchyard.gateway.spend_period import period

router = APIRouter(tags=["Spend"], prefix="/spend")

_MOMENT = {
    "anyOf": [{"type": "string", "format": "date"}, {"type": "string", "pattern": "^[0-9]{0,11}$"}, {"type": "null"}]
}
Start = Annotated[
    str | None,
    Query(description="The first day, as 2026-01-31 (UTC), or Unix seconds", json_schema_extra=_MOMENT),
]
End = Annotated[
    str | None,
    Query(description="The last day, as 2026-01-31 (UTC), or Unix seconds (exclusive)", json_schema_extra=_MOMENT),
]


@router.get("/logs")
async def get_spend_logs(
    caller: TheCaller,
    start_date: Start = None,
    end_date: End = None,
    batch_id: str | None = None,
    model: str | None = None,
    limit: Annotated[int, Query(ge=1, le=SPEND_PAGE_MAX)] = 100,
    after: Annotated[str | None, Query(description="The batch after which the page begins")] = None,
) -> LedgerPage:
    """The ledger, newest first: one entry for each batch that has ended."""
    start, end = period(start_date, end_date)
    return await caller.call(
        GetSpend(batch_id=batch_id or None, model=model or None, start=start, end=end, limit=limit, after=after or None)
    )


@router.get("/summary")
async def get_spend_summary(
    caller: TheCaller,
    group_by: GroupBy = "model",
    start_date: Start = None,
    end_date: End = None,
) -> SpendReport:
    """The sums by model, day or key."""
    start, end = period(start_date, end_date)
    return await caller.call(SummarizeSpend(group_by=group_by, start=start, end=end))
