"""Spend: what batches cost. The paths are LiteLLM's where it has them."""

import hashlib
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response

from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.billing import (
    GROUPS,
    SPEND_PAGE_MAX,
    AdjustSpend,
    GetSpend,
    LedgerLine,
    LedgerPage,
    ListPrices,
    PricesPage,
    SpendReport,
    SummarizeSpend,
)
from batchyard.gateway.access_request import parse
from batchyard.gateway.adjustment_request import AdjustmentRequest
from batchyard.gateway.bodies import read_json
from batchyard.gateway.caller import Caller, TheCaller, TheOperator
from batchyard.gateway.document import refusals
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.retry_headers import idempotency_key
from batchyard.gateway.spend_export import MEDIA_TYPE, logs_as_csv, report_as_csv
from batchyard.gateway.spend_query import SpendQuery, TheSpend, grouping

router = APIRouter(tags=["Spend"])

_TABLE: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or a table of all of it", "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}
}
Limit = Annotated[int, Query(ge=1, le=SPEND_PAGE_MAX)]
Page = Annotated[int, Query(ge=1, le=1_000_000, description="Counted from 1")]
GroupBy = Annotated[
    str,
    Query(
        description="`model`, `day`, `key`, `team`, `tag` (each pair of metadata) or `metadata.<name>`",
        json_schema_extra={"pattern": GROUPS},
    ),
]


@router.get("/spend/logs", response_model=LedgerPage, responses=_TABLE)
async def get_spend_logs(
    caller: TheCaller,
    spend: TheSpend,
    batch_id: str | None = None,
    limit: Limit = 100,
    after: Annotated[
        str | None, Query(description="The entry after which the page begins, or a batch for its last entry")
    ] = None,
) -> LedgerPage | Response:
    """The ledger, newest first: an entry for each model of a batch that has ended, and corrections."""

    async def page(before: LedgerPage | None) -> LedgerPage:
        start = after or None if before is None else before.data[-1].id
        members = spend.selecting(batch_id=batch_id or None, after=start)
        return await spend.ask(caller, GetSpend(**members, limit=SPEND_PAGE_MAX if spend.is_csv else limit))

    return await logs_as_csv(page) if spend.is_csv else await page(None)


@router.get("/spend/summary", response_model=SpendReport, responses=_TABLE)
async def get_spend_summary(
    caller: TheCaller, spend: TheSpend, group_by: GroupBy = "model", limit: Limit = SPEND_PAGE_MAX, page: Page = 1
) -> SpendReport | Response:
    """The sums by group."""
    return await _report(caller, spend, group_by, limit, page)


@router.get("/global/spend/report", response_model=SpendReport, responses=_TABLE)
async def get_spend_report(
    caller: TheCaller, spend: TheSpend, group_by: GroupBy = "team", limit: Limit = SPEND_PAGE_MAX, page: Page = 1
) -> SpendReport | Response:
    """The sums by group: of all teams for the master key, of its own team for any other key."""
    return await _report(caller, spend, group_by, limit, page)


@router.get("/spend/keys", response_model=SpendReport, responses=_TABLE)
async def get_spend_keys(
    caller: TheCaller, spend: TheSpend, limit: Limit = SPEND_PAGE_MAX, page: Page = 1
) -> SpendReport | Response:
    """The sums by key."""
    return await _report(caller, spend, "key", limit, page)


@router.get("/spend/tags", response_model=SpendReport, responses=_TABLE)
async def get_spend_tags(
    caller: TheCaller, spend: TheSpend, limit: Limit = SPEND_PAGE_MAX, page: Page = 1
) -> SpendReport | Response:
    """The sums by each pair of the batches' metadata, as `name:value`. A batch counts in each of its pairs."""
    return await _report(caller, spend, "tag", limit, page)


@router.get("/spend/prices")
async def get_prices(
    caller: TheOperator,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The version after which the page begins")] = None,
) -> PricesPage:
    """The versions of the price book, newest first. An entry of the ledger names the one it was priced by."""
    return await caller.gateway.commands.call(ALL_TENANTS, ListPrices(limit=limit, after=after or None))


@router.post("/spend/adjustments", openapi_extra=json_body(AdjustmentRequest), responses=refusals(404, 409))
async def adjust_spend(request: Request, caller: TheOperator) -> LedgerLine:
    """Correct what a team was charged, by an entry of its own. `Idempotency-Key` makes it safe to send again."""
    key = idempotency_key(request)
    wanted = parse(AdjustmentRequest, await read_json(request, caller.gateway.settings))
    command = AdjustSpend(
        adjustment_id=uuid4().hex if key is None else hashlib.sha256(key.encode()).hexdigest(),
        team=wanted.team_id,
        amount=wanted.amount,
        reason=wanted.reason,
        author=wanted.author,
        batch_id=wanted.batch_id,
    )
    return await caller.gateway.commands.call(ALL_TENANTS, command)


async def _report(caller: Caller, spend: SpendQuery, group_by: str, limit: int, page: int) -> SpendReport | Response:
    members = spend.selecting(group_by=grouping(group_by))
    if not spend.is_csv:
        return await spend.ask(caller, SummarizeSpend(**members, limit=limit, page=page))
    turned = 0

    async def following(_before: SpendReport | None) -> SpendReport:
        nonlocal turned
        turned += 1
        return await spend.ask(caller, SummarizeSpend(**members, page=turned))

    return await report_as_csv(following)
