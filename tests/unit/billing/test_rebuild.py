"""The ledger computed again: equal to the one that there is, whatever has happened to it."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from unit.billing.ends import CONFIG, FINISHED_AT, deployment, ended, on_sqlite, publish, spend_of

from batchyard.billing.database import Database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.price_book import PriceVersion
from batchyard.billing.rebuild import Comparison, Rebuild
from batchyard.billing.selection import Selection
from batchyard.billing.spend_days import SpendDays
from batchyard.common.clock import ManualClock
from batchyard.common.config import Config, Price
from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.billing import AdjustSpend, SummarizeSpend
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.crash import VARIABLE
from batchyard.common.errors import ConfigurationError
from batchyard.common.messaging.topology import EVENTS
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings

DEARER = Config(deployments=(deployment("one", Price(Decimal(1), Decimal(1))),))
COST = Decimal("0.00078")


async def told(messaging: Messaging, ledger: Ledger | None, *events: BatchEvent) -> None:
    """Publish the ends of batches, and bill them as well if there is a ledger to do so."""
    for event in events:
        await publish(messaging.js, event)
        if ledger is not None:
            await ledger.record(event)


async def rebuilt(messaging: Messaging, database: Database, config: Config = DEARER, *, check: bool) -> Comparison:
    return await Rebuild(messaging.js, database, lambda: config, ManualClock()).run(check=check)


async def spent(ledger: Ledger, tenant: str = "team-a") -> Decimal:
    return (await spend_of(ledger).summarize(tenant, SummarizeSpend())).total.cost


def mixed() -> BatchEvent:
    used = Usage.of(1000, 200, 50, 10)
    work = (
        Work(model="a", deployment="one", completed=2, usage=used, busy_microseconds=7),
        Work(model="b", deployment="two", completed=1, usage=used),
    )
    return ended(model=None, used={"one": used, "two": used}).model_copy(update={"work": work})


async def test_it_is_equal_to_the_ledger_whatever_prices_are_today(
    messaging: Messaging, database: Database, store: LedgerStore
) -> None:
    clock = ManualClock(FINISHED_AT)
    ledger = Ledger(store, DEARER, clock)
    await told(messaging, ledger, ended(at=FINISHED_AT - 5))
    clock.advance(100)
    ledger.use(CONFIG)
    await ledger.write_prices()
    expired = ended(at=FINISHED_AT + 200, status=BatchStatus.EXPIRED)
    await told(messaging, ledger, ended(at=FINISHED_AT + 200), mixed(), expired, ended(status=BatchStatus.FAILED))
    await publish(messaging.js, expired, "told twice")
    found = await rebuilt(messaging, database, check=True)
    assert found.is_equal
    assert (found.events, found.equal, found.older) == (5, 5, 0)


async def test_what_is_missing_is_added_with_the_prices_of_its_time(
    messaging: Messaging, database: Database, ledger: Ledger
) -> None:
    await told(messaging, ledger, ended())
    await told(messaging, None, ended(), mixed())
    before = await rebuilt(messaging, database, check=True)
    assert (before.missing, before.is_equal) == (3, False)
    assert await spent(ledger) == COST
    await rebuilt(messaging, database, check=False)
    assert await spent(ledger) == 4 * COST
    assert (await rebuilt(messaging, database, check=True)).is_equal


async def test_a_lost_ledger_comes_back(messaging: Messaging, database: Database, ledger: Ledger) -> None:
    await told(messaging, None, *(ended() for _ in range(20)))
    found = await rebuilt(messaging, database, CONFIG, check=False)
    assert (found.missing, await spent(ledger)) == (20, 20 * COST)
    async with database.writing() as connection:
        await connection.execute(text("UPDATE spend_by_day SET requests = 0"))
        await connection.execute(text("DELETE FROM budget_days WHERE scope = ''"))
    found = await rebuilt(messaging, database, check=True)
    assert (found.sums, found.is_equal) == (2, False)
    assert (await rebuilt(messaging, database, check=False)).is_equal
    assert (await rebuilt(messaging, database, check=True)).is_equal


@on_sqlite
async def test_without_a_price_book_there_must_be_a_configuration(messaging: Messaging, database: Database) -> None:
    def missing() -> Config:
        raise ConfigurationError("no such file")

    with pytest.raises(ConfigurationError):
        await Rebuild(messaging.js, database, missing, ManualClock()).run(check=True)


class Wrong(LedgerStore):
    """Writes twice the cost down, as a version with an error would have."""

    async def add(self, entries: Sequence[LedgerEntry], version: PriceVersion | None = None) -> bool:
        twice = [replace(one, line=one.line.model_copy(update={"cost": 2 * one.line.cost})) for one in entries]
        return await super().add(twice, version)


async def test_what_comes_out_otherwise_is_corrected_once(
    messaging: Messaging, database: Database, ledger: Ledger
) -> None:
    await told(messaging, Ledger(Wrong(database), CONFIG, ManualClock()), ended(), mixed())
    assert await spent(ledger) == 6 * COST
    assert (await rebuilt(messaging, database, check=True)).different == 3
    for _ in range(2):
        await rebuilt(messaging, database, check=False)
        assert await spent(ledger) == 3 * COST
    found = await rebuilt(messaging, database, check=True)
    assert (found.is_equal, found.equal) == (True, 3)


async def test_corrections_by_people_stay(messaging: Messaging, database: Database, ledger: Ledger) -> None:
    event = ended()
    await told(messaging, ledger, event)
    await spend_of(ledger).adjust(
        ALL_TENANTS,
        AdjustSpend(
            adjustment_id="x", team="team-a", amount=Decimal(1), reason="r", author="me", batch_id=event.batch.id
        ),
    )
    assert (await rebuilt(messaging, database, check=False)).is_equal
    assert await spent(ledger) == COST + 1


async def test_what_has_left_the_stream_is_not_judged(messaging: Messaging, database: Database, ledger: Ledger) -> None:
    await told(messaging, ledger, ended(at=10))
    await messaging.js.purge_stream(EVENTS)
    await told(messaging, ledger, ended())
    found = await rebuilt(messaging, database, check=True)
    assert (found.is_equal, found.older, found.equal) == (True, 1, 1)


async def test_a_charge_without_an_event_is_told(messaging: Messaging, database: Database, ledger: Ledger) -> None:
    await ledger.record(ended())
    await told(messaging, ledger, ended())
    found = await rebuilt(messaging, database, check=False)
    assert (found.unexplained, found.is_equal, found.equal) == (1, False, 1)
    assert "there is no event" in found.examples[0]


async def test_what_cannot_be_read_stops_nothing(messaging: Messaging, database: Database, ledger: Ledger) -> None:
    await messaging.js.publish(ended().subject, b"{")
    await told(messaging, ledger, ended())
    await publish(messaging.js, ended(used={"one": Usage.of(-1, 0, 0, 0)}))
    found = await rebuilt(messaging, database, check=True)
    assert (found.is_equal, found.events, found.unreadable, found.equal) == (True, 3, 2, 1)


@on_sqlite
async def test_an_entry_from_before_there_were_versions_keeps_its_price(
    messaging: Messaging, database: Database, ledger: Ledger, store: LedgerStore
) -> None:
    event = ended()
    await told(messaging, None, event)
    await ledger.write_prices()
    other = Ledger(store, DEARER, ManualClock(), keeps_prices=False)
    await other.record(event)
    [entry] = await store.page(Selection("team-a"), 1)
    async with database.writing() as connection:
        await connection.execute(text("DROP TRIGGER ledger_entries_is_never_deleted"))
        await connection.execute(text("DELETE FROM ledger_entries"))
    old = replace(entry, line=entry.line.model_copy(update={"price_version": None, "cost": Decimal(7)}))
    assert await store.add([old])
    await SpendDays(database).recompute()
    assert (await rebuilt(messaging, database, check=True)).is_equal


DYING = """
import asyncio, sys
from batchyard.billing.database import open_database
from batchyard.billing.price_book import PriceVersion
from batchyard.billing.rebuild import Rebuild
from batchyard.common.clock import SystemClock
from batchyard.common.service import open_messaging
from batchyard.common.settings import Settings
from sqlalchemy import make_url
from unit.billing.ends import CONFIG

async def main():
    settings = Settings(nats_url=sys.argv[1])
    async with open_database(make_url(sys.argv[2]), 10) as database, open_messaging("billing", settings) as messaging:
        await Rebuild(messaging.js, database, lambda: CONFIG, SystemClock()).run(check=False)

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["rebuild.added", "rebuild.corrected"])
async def test_a_rebuild_that_is_killed_may_be_begun_again(
    point: str,
    messaging: Messaging,
    settings: Settings,
    database_url: URL,
    database: Database,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    await told(messaging, Ledger(Wrong(database), CONFIG, ManualClock()), ended(), mixed())
    await told(messaging, None, ended(), mixed())
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DYING, settings.nats_url, database_url.render_as_string(hide_password=False)),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), VARIABLE: f"{point}:{tmp_path / 'died'}"},
    )
    assert await asyncio.wait_for(killed.wait(), 60) == -signal.SIGKILL
    assert not (await rebuilt(messaging, database, CONFIG, check=True)).is_equal
    await rebuilt(messaging, database, CONFIG, check=False)
    assert (await rebuilt(messaging, database, CONFIG, check=True)).is_equal
    assert await spent(ledger) == 6 * COST
