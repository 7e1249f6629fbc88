"""A ledger entry: what callers see of it, and what it was computed from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchyard.common.contracts.billing import LedgerLine
from batchyard.common.contracts.usage import Usage

PriceSnapshot = Mapping[str, str | None]
"""The prices used on one deployment, as decimal strings: `priced_as`, `input`, `cached`, `output`, `second`, `hour`,
`discount`."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One line of the ledger; never changed once written.

    Attributes:
        line: The entry as callers see it; its `batch_id` is the public one, its `id` unique in its tenant.
        position: Its place among the charges of its batch, from 0; -1 for an adjustment.
        raw_batch_id: None for an adjustment that concerns no batch.
        event_id: The event it was written for.
        usage_by_deployment: By deployment ID, as the event told it.
        prices: By deployment ID, so that a price changed later does not rewrite what was charged.
    """

    line: LedgerLine
    position: int
    raw_batch_id: str | None = None
    event_id: str | None = None
    usage_by_deployment: Mapping[str, Usage] = field(default_factory=dict)
    prices: Mapping[str, PriceSnapshot] = field(default_factory=dict)


def charge_id(raw_batch_id: str, position: int) -> str:
    """The ID of a batch's charge: the same whenever the batch is billed."""
    return f"{raw_batch_id}.{position}"
