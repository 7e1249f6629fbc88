"""The entries for a batch that has ended: its event and the prices in, a charge for each of its models out. No I/O."""

from collections.abc import Mapping
from decimal import Decimal

from batchyard.billing.entry import LedgerEntry, PriceSnapshot, charge_id
from batchyard.common.contracts.batches import Batch, BatchStatus, RequestCounts
from batchyard.common.contracts.billing import LedgerLine
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.money import MOST
from batchyard.common.pricing import Charge, Priced, told_work

BILLABLE = frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})
"""A batch that failed did not pass validation, ran nothing, and costs nothing."""

_NO_DEPLOYMENT = ""
_TOO_MANY = 10**15
_YEAR_10000 = 253_402_300_800


class Unbillable(ValueError):
    """An event with numbers that cannot be true; it stays so however often it is delivered."""


def work_of(event: BatchEvent) -> list[Work]:
    """What the batch used. Tokens that the event credits to no deployment are priced by the model's pool."""
    work = told_work(event.work, event.usage_by_deployment)
    if not work and event.batch.usage not in (None, Usage()):
        assert event.batch.usage is not None
        work.append(Work(deployment=_NO_DEPLOYMENT, usage=event.batch.usage))
    return work


def finished_at(event: BatchEvent) -> int:
    """When the batch ended, in Unix seconds. Raises Unbillable."""
    batch = event.batch
    ends = {
        BatchStatus.COMPLETED: batch.completed_at,
        BatchStatus.EXPIRED: batch.expired_at,
        BatchStatus.CANCELLED: batch.cancelled_at,
    }
    end = ends[event.status]
    moment = event.occurred_at if end is None else end
    for time in (batch.created_at, moment):
        if not 0 <= time < _YEAR_10000:
            raise Unbillable(f"a time of {time}")
    return int(moment)


def charges_for(event: BatchEvent, priced: list[Priced], currency: str, version: str, now: float) -> list[LedgerEntry]:
    """The entries for `event` at these prices, recorded `now` (Unix seconds). Raises Unbillable."""
    _require_plausible(event, priced)
    return [
        _entry(event, one, position, _counts(event.batch, one, len(priced)), currency, version, now)
        for position, one in enumerate(priced)
    ]


def _counts(batch: Batch, priced: Priced, rows: int) -> RequestCounts:
    """A batch of one model has its own counts; of several, what each of them answered is known."""
    if rows == 1:
        return batch.request_counts
    ran = priced.completed + priced.failed
    return RequestCounts(total=ran, completed=priced.completed, failed=priced.failed)


def _entry(
    event: BatchEvent, priced: Priced, position: int, counts: RequestCounts, currency: str, version: str, now: float
) -> LedgerEntry:
    batch, rates = event.batch, priced.rates
    line = LedgerLine(
        id=charge_id(event.raw_batch_id, position),
        kind="charge",
        batch_id=batch.id,
        tenant=event.tenant,
        key_id=event.key_id,
        key_alias=event.key_alias,
        model=priced.model,
        endpoint=batch.endpoint,
        status=event.status,
        request_counts=counts,
        usage=priced.usage,
        busy_seconds=Decimal(priced.busy_microseconds).scaleb(-6),
        cost=priced.cost,
        currency=currency,
        price_version=version,
        input_price=None if rates is None else rates.input,
        cached_price=None if rates is None else rates.cached,
        output_price=None if rates is None else rates.output,
        discount=priced.discount,
        batch_created_at=batch.created_at,
        finished_at=finished_at(event),
        recorded_at=int(now),
        metadata=batch.metadata,
    )
    return LedgerEntry(
        line=line,
        position=position,
        raw_batch_id=event.raw_batch_id,
        event_id=event.id,
        usage_by_deployment={charge.deployment: charge.usage for charge in priced.charges},
        prices={charge.deployment: _snapshot(charge) for charge in priced.charges},
    )


def _require_plausible(event: BatchEvent, priced: list[Priced]) -> None:
    """Refuse what would corrupt the ledger, or what no database column holds."""
    lines = event.batch.request_counts
    counts = [lines.total, lines.completed, lines.failed]
    for one in priced:
        counts += [one.completed, one.failed, one.busy_microseconds]
        for charge in one.charges:
            used = charge.usage
            counts += [used.input_tokens, used.input_tokens_details.cached_tokens, charge.busy_microseconds]
            counts += [used.output_tokens, used.output_tokens_details.reasoning_tokens]
        if one.cost > MOST:
            raise Unbillable(f"a cost of {one.cost}")
    for count in counts:
        if not 0 <= count < _TOO_MANY:
            raise Unbillable(f"a count of {count}")


def _snapshot(charge: Charge) -> PriceSnapshot:
    rates = charge.rates
    amounts: Mapping[str, Decimal | None] = {
        "input": rates.input,
        "cached": rates.cached,
        "output": rates.output,
        "second": rates.second,
        "hour": rates.hour,
        "discount": rates.discount,
    }
    texts = {name: None if amount is None else format(amount, "f") for name, amount in amounts.items()}
    return {"priced_as": charge.priced_as, **texts}
