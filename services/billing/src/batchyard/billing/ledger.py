"""The ledger: a charge for each model of a batch that executed, corrections, and the answers to what was spent.

A batch that completed, expired or was cancelled has a charge, though it may have cost nothing: it may have executed.
"""

import asyncio
from enum import StrEnum

from batchyard.billing.charges import BILLABLE, Unbillable, charges_for, finished_at, work_of
from batchyard.billing.ledger_store import LedgerStore, PricesMoved
from batchyard.billing.price_book import PriceVersion, config_of, document_of
from batchyard.common.clock import Clock
from batchyard.common.config import Config
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.pricing import Priced, price_batch
from batchyard.common.tasks import unless

__all__ = ["Ledger", "Outcome", "Unbillable"]

_ATTEMPTS = 20
_MOST_BOOKS = 16
_PAUSE_SECONDS = 1.0
_log = get_logger(__name__)


class Outcome(StrEnum):
    """What became of an event."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    NOTHING_RAN = "nothing_ran"


class Ledger:
    """What every batch cost, by tenant.

    Args:
        store: Where the entries and the versions of the prices are kept.
        config: The prices in force, and the currency.
        clock: Tells when an entry was recorded.
        keeps_prices: Whether the prices are written down; otherwise those of the store count, and no others.
    """

    def __init__(self, store: LedgerStore, config: Config, clock: Clock, *, keeps_prices: bool = True) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._changed = asyncio.Event()
        self._is_written = not keeps_prices
        self._books: dict[str, Config] = {}
        self._warned: set[tuple[str, str]] = set()

    @property
    def config(self) -> Config:
        """The prices in force, and the names of models."""
        return self._config

    def use(self, config: Config) -> None:
        """Price batches that end from now on by `config`. Those that have ended keep the prices of their time."""
        self._config = config
        self._is_written = False
        self._warned.clear()
        self._changed.set()

    async def keep_prices(self, stop: asyncio.Event) -> None:
        """Write a version of the prices down whenever they change, until `stop` is set."""
        while not stop.is_set():
            self._changed.clear()
            try:
                await self.write_prices()
            except ServiceUnavailable:
                await unless(stop, asyncio.sleep(_PAUSE_SECONDS))
            else:
                await unless(stop, self._changed.wait())

    async def write_prices(self) -> None:
        """Write down a version of the prices in force, unless the last one says the same. Raises ServiceUnavailable."""
        if self._is_written:
            return
        config = self._config
        version = await self._store.add_prices(document_of(config), self._clock.now())
        if version is not None:
            _log.info("prices.changed", version=version.version, valid_from=version.valid_from)
        self._is_written = config is self._config

    async def record(self, event: BatchEvent) -> Outcome:
        """Write the entries for a batch's end, once however often it is told.

        Raises:
            Unbillable: The event can never become an entry.
            ServiceUnavailable: The database does not answer; the entry may be recorded later.
        """
        if event.status not in BILLABLE:
            await self._store.release(event.tenant, event.raw_batch_id)
            return Outcome.NOTHING_RAN
        await self.write_prices()
        end = finished_at(event)
        for _ in range(_ATTEMPTS):
            version = await self._store.prices_at(end)
            config = self._book(version)
            priced = price_batch(work_of(event), event.batch.model, config)
            entries = charges_for(event, priced, config.currency, version.version, self._clock.now())
            try:
                added = await self._store.add(entries, version)
            except PricesMoved:
                continue
            if added:
                self._warn(event, priced)
            return Outcome.RECORDED if added else Outcome.DUPLICATE
        raise ServiceUnavailable("The prices change too often. Please retry shortly.")

    def _book(self, version: PriceVersion) -> Config:
        if version.version not in self._books:
            if len(self._books) >= _MOST_BOOKS:
                self._books.clear()
            self._books[version.version] = config_of(version.prices)
        return self._books[version.version]

    async def check(self) -> None:
        """Return when an entry could be recorded now. Raises ServiceUnavailable."""
        await self._store.check()

    def _warn(self, event: BatchEvent, priced: list[Priced]) -> None:
        """Say once per deployment what makes a price wrong."""
        for one in priced:
            for charge in one.charges:
                if charge.priced_as != charge.deployment and self._first("unknown", charge.deployment):
                    _log.warning(
                        "billing.unknown_deployment",
                        deployment=charge.deployment,
                        priced_as=charge.priced_as,
                        model=one.model,
                        batch=event.raw_batch_id,
                    )
                if charge.priced_as and charge.unpriced and self._first("unpriced", charge.priced_as):
                    _log.warning("billing.unpriced", deployment=charge.priced_as, model=one.model)

    def _first(self, what: str, deployment: str) -> bool:
        if (what, deployment) in self._warned:
            return False
        self._warned.add((what, deployment))
        return True
