"""Money: the commands of billing and the ledger as callers see it. Amounts are decimal strings, never floats."""

from decimal import Decimal
from typing import ClassVar, Literal

from pydantic import Field

from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.batches import RequestCounts, Usage

SPEND_PAGE_MAX = 1000

GroupBy = Literal["model", "day", "key"]


class LedgerLine(Contract):
    """What one batch cost.

    `cost` is in `currency`; `input_price`, `cached_price` and `output_price` are the prices per token that were used
    (null when deployments with different prices shared the batch), `discount` the share taken off for being a batch.
    """

    batch_id: str
    tenant: str
    key_id: str | None = None
    key_alias: str | None
    model: str | None
    endpoint: str
    status: str
    request_counts: RequestCounts
    usage: Usage
    cost: Decimal
    currency: str
    input_price: Decimal | None
    cached_price: Decimal | None
    output_price: Decimal | None
    discount: Decimal
    batch_created_at: int
    finished_at: int
    recorded_at: int
    metadata: dict[str, str] | None


class LedgerPage(Contract):
    object: Literal["list"] = "list"
    data: list[LedgerLine]
    has_more: bool = False


class SpendGroup(Contract):
    """The sum of a group's entries; `group` is the model, the UTC day (`2026-01-31`) or the key's alias."""

    group: str | None
    batches: int
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: Decimal


class SpendReport(Contract):
    object: Literal["spend.summary"] = "spend.summary"
    currency: str
    group_by: GroupBy
    data: list[SpendGroup]
    total: SpendGroup


class GetSpend(Command[LedgerPage]):
    """The ledger's lines, newest first. `start` and `end` are Unix seconds (end exclusive) of the batches' end."""

    noun: ClassVar = "billing"
    verb: ClassVar = "spend"
    result: ClassVar = LedgerPage

    batch_id: str | None = None
    model: str | None = None
    start: int | None = None
    end: int | None = None
    limit: int = Field(default=100, ge=1, le=SPEND_PAGE_MAX)
    after: str | None = None


class SummarizeSpend(Command[SpendReport]):
    noun: ClassVar = "billing"
    verb: ClassVar = "summary"
    result: ClassVar = SpendReport

    group_by: GroupBy = "model"
    start: int | None = None
    end: int | None = None
