"""The ledger: one entry per batch that executed, and the answers to what was spent.

A batch that completed, expired or was cancelled has an entry, though it may have cost nothing: it may have executed.
One that failed did not pass validation, ran nothing, and has none.
"""

from decimal import Decimal
from enum import StrEnum

from batchyard.billing.entry import LedgerEntry, PriceSnapshot
from batchyard.billing.ledger_store import LedgerStore, Selection
from batchyard.billing.money import MOST
from batchyard.billing.pricing import Charge, Priced, Rates, price_batch
from batchyard.common.clock import Clock
from batchyard.common.config import Config
from batchyard.common.contracts.batches import Batch, BatchStatus, Usage
from batchyard.common.contracts.billing import (
    GetSpend,
    LedgerLine,
    LedgerPage,
    SpendGroup,
    SpendReport,
    SummarizeSpend,
)
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.errors import InvalidRequest
from batchyard.common.ids import decode_id
from batchyard.common.logs import get_logger

_BILLABLE = frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})
_NO_DEPLOYMENT = ""
_TOO_MANY = 10**15
_YEAR_10000 = 253_402_300_800
_log = get_logger(__name__)


class Unbillable(ValueError):
    """An event with numbers that cannot be true; it stays so however often it is delivered."""


class Outcome(StrEnum):
    """What became of an event."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    NOTHING_RAN = "nothing_ran"


class Ledger:
    """What every batch cost, by tenant.

    Args:
        store: Where the entries are kept.
        config: The prices in force, and the currency.
        clock: Tells when an entry was recorded.
    """

    def __init__(self, store: LedgerStore, config: Config, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._warned: set[tuple[str, str]] = set()

    def use(self, config: Config) -> None:
        """Price what is recorded from now on by `config`. Entries that are there keep the prices they hold."""
        self._config = config
        self._warned.clear()

    async def record(self, event: BatchEvent) -> Outcome:
        """Write the entry for a batch's end, once however often it is told.

        Raises:
            Unbillable: The event can never become an entry.
            ServiceUnavailable: The database does not answer; the entry may be recorded later.
        """
        if event.status not in _BILLABLE:
            return Outcome.NOTHING_RAN
        priced = price_batch(_usage_by_deployment(event), event.batch.model, self._config)
        entry = make_entry(event, priced, self._config.currency, self._clock.now())
        self._warn(event, priced)
        added = await self._store.add(entry)
        return Outcome.RECORDED if added else Outcome.DUPLICATE

    async def spend(self, tenant: str, command: GetSpend) -> LedgerPage:
        """A page of the tenant's entries, newest first. Raises InvalidRequest when `after` is not one of them."""
        selection = Selection(
            tenant=tenant,
            batch_id=None if command.batch_id is None else decode_id(command.batch_id).raw,
            model=command.model,
            start=command.start,
            end=command.end,
        )
        after = None
        if command.after is not None:
            after = await self._store.position(tenant, decode_id(command.after).raw)
            if after is None:
                raise InvalidRequest(f"No ledger entry for batch '{command.after}'.", param="after")
        entries = await self._store.page(selection, command.limit + 1, after)
        page = [entry.line for entry in entries[: command.limit]]
        return LedgerPage(data=page, has_more=len(entries) > command.limit)

    async def summarize(self, tenant: str, command: SummarizeSpend) -> SpendReport:
        """The tenant's sums in the configured currency, ordered by group, what has none last.

        Entries in another currency, from before the configuration changed, are left out: they cannot be added up.
        """
        selection = Selection(tenant=tenant, start=command.start, end=command.end)
        groups = await self._store.sums(selection, command.group_by, self._config.currency)
        groups.sort(key=lambda group: (group.group is None, group.group or ""))
        return SpendReport(
            currency=self._config.currency, group_by=command.group_by, data=groups, total=total_of(groups)
        )

    async def check(self) -> None:
        """Return when an entry could be recorded now. Raises ServiceUnavailable."""
        await self._store.check()

    def _warn(self, event: BatchEvent, priced: Priced) -> None:
        """Say once per deployment what makes a price wrong."""
        for charge in priced.charges:
            if charge.priced_as != charge.deployment and self._first("unknown", charge.deployment):
                _log.warning(
                    "billing.unknown_deployment",
                    deployment=charge.deployment,
                    priced_as=charge.priced_as,
                    model=event.batch.model,
                    batch=event.raw_batch_id,
                )
            if charge.priced_as and charge.unpriced and self._first("unpriced", charge.priced_as):
                _log.warning("billing.unpriced", deployment=charge.priced_as, model=event.batch.model)

    def _first(self, what: str, deployment: str) -> bool:
        if (what, deployment) in self._warned:
            return False
        self._warned.add((what, deployment))
        return True


def make_entry(event: BatchEvent, priced: Priced, currency: str, now: float) -> LedgerEntry:
    """The entry for `event` at that price, recorded `now` (Unix seconds). Raises Unbillable."""
    batch = event.batch
    usage = sum((charge.usage for charge in priced.charges), Usage())
    finished_at = _finished_at(batch, event)
    _require_plausible(event, priced, finished_at)
    rates = priced.rates
    line = LedgerLine(
        batch_id=batch.id,
        tenant=event.tenant,
        key_id=event.key_id,
        key_alias=event.key_alias,
        model=batch.model,
        endpoint=batch.endpoint,
        status=event.status,
        request_counts=batch.request_counts,
        usage=usage,
        cost=priced.cost,
        currency=currency,
        input_price=None if rates is None else rates.input,
        cached_price=None if rates is None else rates.cached,
        output_price=None if rates is None else rates.output,
        discount=priced.discount,
        batch_created_at=batch.created_at,
        finished_at=int(finished_at),
        recorded_at=int(now),
        metadata=batch.metadata,
    )
    return LedgerEntry(
        line=line,
        raw_batch_id=event.raw_batch_id,
        event_id=event.id,
        usage_by_deployment={charge.deployment: charge.usage for charge in priced.charges},
        prices={charge.deployment: _snapshot(charge) for charge in priced.charges},
    )


def total_of(groups: list[SpendGroup]) -> SpendGroup:
    """The sum of all groups."""
    return SpendGroup(
        group=None,
        batches=sum(group.batches for group in groups),
        requests=sum(group.requests for group in groups),
        input_tokens=sum(group.input_tokens for group in groups),
        cached_tokens=sum(group.cached_tokens for group in groups),
        output_tokens=sum(group.output_tokens for group in groups),
        cost=sum((group.cost for group in groups), Decimal(0)),
    )


def _usage_by_deployment(event: BatchEvent) -> dict[str, Usage]:
    """As the event tells it; tokens that it credits to no deployment are priced by the model's pool."""
    if not event.usage_by_deployment and event.batch.usage not in (None, Usage()):
        assert event.batch.usage is not None
        return {_NO_DEPLOYMENT: event.batch.usage}
    return event.usage_by_deployment


def _finished_at(batch: Batch, event: BatchEvent) -> float:
    ends = {
        BatchStatus.COMPLETED: batch.completed_at,
        BatchStatus.EXPIRED: batch.expired_at,
        BatchStatus.CANCELLED: batch.cancelled_at,
    }
    end = ends[event.status]
    return event.occurred_at if end is None else end


def _require_plausible(event: BatchEvent, priced: Priced, finished_at: float) -> None:
    """Refuse what would corrupt the ledger, or what no database column holds."""
    lines = event.batch.request_counts
    counts = [lines.total, lines.completed, lines.failed]
    for charge in priced.charges:
        used = charge.usage
        counts += [used.input_tokens, used.input_tokens_details.cached_tokens]
        counts += [used.output_tokens, used.output_tokens_details.reasoning_tokens]
    for count in counts:
        if not 0 <= count < _TOO_MANY:
            raise Unbillable(f"a count of {count}")
    for time in (event.batch.created_at, finished_at):
        if not 0 <= time < _YEAR_10000:
            raise Unbillable(f"a time of {time}")
    if priced.cost > MOST:
        raise Unbillable(f"a cost of {priced.cost}")


def _snapshot(charge: Charge) -> PriceSnapshot:
    rates: Rates = charge.rates
    return {
        "priced_as": charge.priced_as,
        "input": _text(rates.input),
        "cached": _text(rates.cached),
        "output": _text(rates.output),
        "discount": _text(rates.discount),
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else format(amount, "f")
