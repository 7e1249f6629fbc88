"""A ledger entry: what callers see of it, and what it was computed from."""

from collections.abc import Mapping
from dataclasses import dataclass

from batchyard.common.contracts.batches import Usage
from batchyard.common.contracts.billing import LedgerLine

PriceSnapshot = Mapping[str, str | None]
"""The prices used on one deployment, as decimal strings: `priced_as`, `input`, `cached`, `output`, `discount`."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One batch in the ledger; never changed once written.

    Attributes:
        line: The entry as callers see it; its `batch_id` is the public one.
        raw_batch_id: With the tenant, what makes the entry unique.
        event_id: The event it was written for.
        usage_by_deployment: By deployment ID, as the event told it.
        prices: By deployment ID, so that a price changed later does not rewrite what was charged.
    """

    line: LedgerLine
    raw_batch_id: str
    event_id: str
    usage_by_deployment: Mapping[str, Usage]
    prices: Mapping[str, PriceSnapshot]
