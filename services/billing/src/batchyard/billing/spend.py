"""What was spent, and corrections of it: the commands about the ledger."""

from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.selection import Selection
from batchyard.billing.spend_sums import SpendSums
from batchyard.common.clock import Clock
from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.billing import (
    AdjustSpend,
    GetSpend,
    LedgerLine,
    LedgerPage,
    ListPrices,
    PricesPage,
    PricesVersion,
    Selecting,
    SpendReport,
    SummarizeSpend,
)
from batchyard.common.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from batchyard.common.ids import decode_id
from batchyard.common.logs import get_logger
from batchyard.common.paging import fitting

_log = get_logger(__name__)


class Spend:
    """The commands of billing. `tenant` is the caller's, and sees its own entries alone unless it is `ALL_TENANTS`."""

    def __init__(self, ledger: Ledger, store: LedgerStore, sums: SpendSums, clock: Clock) -> None:
        self._ledger = ledger
        self._store = store
        self._sums = sums
        self._clock = clock

    async def logs(self, tenant: str, command: GetSpend) -> LedgerPage:
        """A page of entries, newest first. Raises InvalidRequest when `after` is not one of them."""
        selection = self._selection(tenant, command)
        after = None
        if command.after is not None:
            after = await self._store.position(selection.tenant, decode_id(command.after).raw)
            if after is None:
                raise InvalidRequest(f"No ledger entry '{command.after}'.", param="after")
        entries = await self._store.page(selection, command.limit + 1, after)
        page = fitting(entry.line for entry in entries[: command.limit])
        return LedgerPage(data=page, has_more=len(entries) > len(page))

    async def summarize(self, tenant: str, command: SummarizeSpend) -> SpendReport:
        """A page of sums in the configured currency, ordered by group, what has none last.

        Entries in another currency, from before the configuration changed, are left out: they cannot be added up.
        """
        currency = self._ledger.config.currency
        groups, total = await self._sums.sums(
            self._selection(tenant, command), currency, command.group_by, command.limit, command.page
        )
        page = fitting(groups[: command.limit])
        return SpendReport(
            currency=currency,
            group_by=command.group_by,
            data=page,
            total=total,
            has_more=len(groups) > len(page),
        )

    async def prices(self, tenant: str, command: ListPrices) -> PricesPage:
        """A page of the versions of the price book, which name every model and server. Raises PermissionDenied."""
        if tenant != ALL_TENANTS:
            raise PermissionDenied("Only whoever runs Batchyard may see its price book.")
        await self._ledger.write_prices()
        found = await self._store.prices(command.limit + 1, command.after)
        page = fitting(
            PricesVersion(
                version=version.version,
                valid_from=version.valid_from,
                recorded_at=version.recorded_at,
                prices=dict(version.prices),
            )
            for version in found[: command.limit]
        )
        return PricesPage(data=page, has_more=len(found) > len(page))

    async def adjust(self, tenant: str, command: AdjustSpend) -> LedgerLine:
        """Write a correction, once however often it is sent.

        Raises:
            PermissionDenied: Not sent for all tenants: nobody corrects what they are charged themselves.
            NotFound: The team was not charged for the batch.
            Conflict: The ID stands for another correction.
        """
        if tenant != ALL_TENANTS:
            raise PermissionDenied("Only whoever runs Batchyard may correct what a team is charged.")
        entry = await self._adjustment(command)
        if await self._store.add([entry]):
            _log.info("ledger.adjusted", tenant=command.team, entry=entry.line.id, batch=entry.raw_batch_id)
            return entry.line
        [known] = await self._store.page(Selection(command.team, entry_id=entry.line.id), 1)
        if (known.line.cost, known.line.reason, known.raw_batch_id) != (
            entry.line.cost,
            entry.line.reason,
            entry.raw_batch_id,
        ):
            raise Conflict("This ID was used before for another correction.", param="adjustment_id")
        return known.line

    async def _adjustment(self, command: AdjustSpend) -> LedgerEntry:
        now = int(self._clock.now())
        about: dict[str, object] = {}
        raw = None
        if command.batch_id is not None:
            raw = decode_id(command.batch_id).raw
            charges = await self._store.page(Selection(command.team, batch_id=raw), 100)
            charged = [entry.line for entry in charges if entry.line.kind == "charge"]
            if not charged:
                raise NotFound(f"The team '{command.team}' was not charged for '{command.batch_id}'.", param="batch_id")
            shared = ("batch_id", "key_id", "key_alias", "endpoint", "status", "batch_created_at", "metadata")
            about = {name: getattr(charged[0], name) for name in shared}
            about["model"] = charged[0].model if len(charged) == 1 else None
        line = LedgerLine(
            **about,
            id=f"adj_{command.adjustment_id}",
            kind="adjustment",
            tenant=command.team,
            cost=command.amount,
            currency=self._ledger.config.currency,
            finished_at=now,
            recorded_at=now,
            reason=command.reason,
            author=command.author,
        )
        return LedgerEntry(line=line, position=-1, raw_batch_id=raw)

    def _selection(self, tenant: str, command: Selecting) -> Selection:
        return Selection(
            tenant=None if tenant == ALL_TENANTS else tenant,
            teams=command.teams,
            batch_id=None if command.batch_id is None else decode_id(command.batch_id).raw,
            model=None if command.model is None else self._ledger.config.public_name(command.model),
            key=command.key,
            start=command.start,
            end=command.end,
        )
