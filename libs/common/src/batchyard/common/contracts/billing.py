"""Money: the commands of billing and the ledger as callers see it. Amounts are decimal strings, never floats.

A command tells of its tenant's entries alone. Sent for `ALL_TENANTS` it tells of those of every team, or of `teams`.
"""

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from batchyard.common.contracts.base import Command, Contract
from batchyard.common.contracts.batches import RequestCounts
from batchyard.common.contracts.usage import Usage

SPEND_PAGE_MAX = 1000
LARGEST_ADJUSTMENT = 1_000_000
GROUPS = r"^(model|day|key|team|tag|metadata\.[^\x00\x22]{1,64})$"

GroupBy = Annotated[str, Field(pattern=GROUPS)]
"""`tag` is each pair of metadata, as `name:value`; `metadata.<name>` the values under one name."""

Name = Annotated[str, Field(max_length=512)]


class LedgerLine(Contract):
    """What one batch cost for one model, or a correction.

    `cost` is in `currency`; `input_price`, `cached_price` and `output_price` are the prices per token that were used
    (null when deployments with different prices shared the batch), `discount` the share taken off for being a batch.
    `busy_seconds` are the batch's share of its servers' time. An `adjustment` has a `reason` and an `author`, and what
    it concerns of the rest.
    """

    id: str
    kind: Literal["charge", "adjustment"] = "charge"
    batch_id: str | None = None
    tenant: str
    key_id: str | None = None
    key_alias: str | None = None
    model: str | None = None
    endpoint: str | None = None
    status: str | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: Usage = Usage()
    busy_seconds: Decimal = Decimal(0)
    cost: Decimal
    currency: str
    price_version: str | None = None
    input_price: Decimal | None = None
    cached_price: Decimal | None = None
    output_price: Decimal | None = None
    discount: Decimal = Decimal(0)
    batch_created_at: int | None = None
    finished_at: int
    recorded_at: int
    metadata: dict[str, str] | None = None
    reason: str | None = None
    author: str | None = None


class LedgerPage(Contract):
    object: Literal["list"] = "list"
    data: list[LedgerLine]
    has_more: bool = False


class SpendGroup(Contract):
    """The sum of a group's entries, corrections included; null is the group of those that have none.

    `group` is the model, the UTC day (`2026-01-31`), the key's alias, the team, the pair or the value of metadata. Keys
    are told apart by `key_id`. A batch of several models counts in the group of each.
    """

    group: str | None
    key_id: str | None = None
    batches: int
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    busy_seconds: Decimal = Decimal(0)
    cost: Decimal


class SpendReport(Contract):
    """Sums by group. `total` is that of all groups, on this page or not, each batch counted once."""

    object: Literal["spend.summary"] = "spend.summary"
    currency: str
    group_by: str
    data: list[SpendGroup]
    total: SpendGroup
    has_more: bool = False


class Selecting(BaseModel):
    """Which entries: all that fit everything given. `start` and `end` are Unix seconds (end exclusive) of the batches'
    end; `key` is a key's ID or alias; a `model` may be named by any name that clients use."""

    teams: tuple[Name, ...] | None = Field(default=None, max_length=1000)
    batch_id: Annotated[str, Field(max_length=4096)] | None = None
    model: Name | None = None
    key: Name | None = None
    start: int | None = None
    end: int | None = None


class GetSpend(Selecting, Command[LedgerPage]):
    """The ledger's lines, newest first, after the one with the ID `after` (or after those of a batch)."""

    noun: ClassVar = "billing"
    verb: ClassVar = "spend"
    result: ClassVar = LedgerPage

    limit: int = Field(default=100, ge=1, le=SPEND_PAGE_MAX)
    after: str | None = None


class SummarizeSpend(Selecting, Command[SpendReport]):
    """Sums by group, in the order of the groups; `page` counts from 1."""

    noun: ClassVar = "billing"
    verb: ClassVar = "summary"
    result: ClassVar = SpendReport

    group_by: GroupBy = "model"
    limit: int = Field(default=SPEND_PAGE_MAX, ge=1, le=SPEND_PAGE_MAX)
    page: int = Field(default=1, ge=1, le=1_000_000)


class AdjustSpend(Command[LedgerLine]):
    """Correct what a team was charged, by an entry of its own. Sent for `ALL_TENANTS`.

    Attributes:
        adjustment_id: Chosen by the sender: the same one again makes no second entry.
        amount: Added to what was charged; negative to give money back.
        batch_id: The batch that it concerns, whose key and model it then has.
    """

    noun: ClassVar = "billing"
    verb: ClassVar = "adjust"
    result: ClassVar = LedgerLine

    adjustment_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    team: Name
    amount: Decimal = Field(ge=-LARGEST_ADJUSTMENT, le=LARGEST_ADJUSTMENT, decimal_places=10, allow_inf_nan=False)
    reason: str = Field(min_length=1, max_length=1000)
    author: str = Field(min_length=1, max_length=256)
    batch_id: Annotated[str, Field(max_length=4096)] | None = None


class PricesVersion(Contract):
    """Prices, valid from a moment (Unix s) until the next version's. `prices` is the book: by deployment, with the
    currency, the discount and the aliases of models. The first version is valid for all that was before, too."""

    version: str
    valid_from: int
    recorded_at: int
    prices: dict[str, Any]


class PricesPage(Contract):
    object: Literal["list"] = "list"
    data: list[PricesVersion]
    has_more: bool = False


class ListPrices(Command[PricesPage]):
    """The versions of the price book, newest first, those before the version `after`."""

    noun: ClassVar = "billing"
    verb: ClassVar = "prices"
    result: ClassVar = PricesPage

    limit: int = Field(default=20, ge=1, le=100)
    after: str | None = None
