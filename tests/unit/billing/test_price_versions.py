"""Prices change; what has been used is paid at the price of its time."""

import asyncio
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL
from unit.billing.ends import CONFIG, FINISHED_AT, deployment, ended, spend_of

from batchyard.billing.database import open_database
from batchyard.billing.ledger import Ledger, Outcome
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.price_book import PriceVersion, config_of, digest_of, document_of, next_version
from batchyard.common.clock import ManualClock
from batchyard.common.config import Alias, Config, Price
from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.billing import GetSpend, ListPrices
from batchyard.common.contracts.usage import Usage

DEARER = Config(deployments=(deployment("one", Price(Decimal(1), Decimal(1))),), batch_discount=Decimal("0.5"))
USED = {"one": Usage.of(1, 0, 1, 0)}

prices = st.builds(
    Price,
    *(st.none() | st.decimals(0, 10, places=12) for _ in range(8)),
    gpus=st.integers(1, 8),
)


@given(prices, prices)
def test_a_book_prices_as_the_configuration_it_is_of(one: Price, two: Price) -> None:
    config = Config(
        deployments=(deployment("one", one), deployment("two", two, pool="team-*")),
        aliases={"fast": Alias("llama", hidden=True)},
        currency="EUR",
        batch_discount=Decimal("0.25"),
    )
    document = document_of(config)
    again = config_of(document)
    assert document_of(again) == document
    assert [known.price for known in again.deployments] == [one, two]
    assert again.pool_for("fast") == "llama"
    assert (again.currency, again.batch_discount) == ("EUR", Decimal("0.25"))


def test_a_version_is_valid_for_no_batch_that_was_billed_before() -> None:
    first = next_version(document_of(CONFIG), None, None, 1000.5)
    assert first is not None
    assert (first.number, first.valid_from) == (1, 0)
    assert next_version(document_of(CONFIG), first, None, 2000.0) is None
    second = next_version(document_of(DEARER), first, None, 2000.9)
    assert second is not None
    assert (second.number, second.valid_from, second.version != first.version) == (2, 2001, True)
    ahead = next_version(document_of(DEARER), first, 2500, 2000.0)
    astray = next_version(document_of(DEARER), first, 10**9, 2000.0)
    assert [version.valid_from for version in (ahead, astray) if version] == [2501, 2001]
    back = next_version(document_of(CONFIG), replace(second, valid_from=9000), None, 2001.0)
    assert back is not None
    assert (back.valid_from, back.digest, back.version != first.version) == (9001, first.digest, True)


def test_the_order_of_members_makes_no_version() -> None:
    document = document_of(CONFIG)
    assert digest_of(dict(reversed(document.items()))) == digest_of(document)


async def test_a_late_event_is_priced_as_of_its_end(store: LedgerStore) -> None:
    clock = ManualClock(FINISHED_AT + 10)
    ledger = Ledger(store, DEARER, clock)
    await ledger.write_prices()
    clock.advance(100)
    ledger.use(CONFIG)
    await ledger.write_prices()
    for at in (FINISHED_AT, FINISHED_AT + 110, FINISHED_AT + 111):
        assert await ledger.record(ended(at=at, used=USED)) is Outcome.RECORDED
    newest, middle, oldest = (await spend_of(ledger).logs("team-a", GetSpend())).data
    assert (oldest.cost, middle.cost, newest.cost) == (Decimal(1), Decimal(1), Decimal("0.00000375"))
    listed = (await spend_of(ledger).prices(ALL_TENANTS, ListPrices())).data
    assert [version.version for version in listed] == [newest.price_version, oldest.price_version]
    assert listed[0].valid_from == FINISHED_AT + 111
    assert [version.prices["deployments"][0].get("output") for version in listed] == ["0.000006", "1"]
    page = await spend_of(ledger).prices(ALL_TENANTS, ListPrices(limit=1))
    assert page.has_more
    assert (await spend_of(ledger).prices(ALL_TENANTS, ListPrices(after=listed[0].version))).data == listed[1:]


async def test_replicas_with_the_same_prices_write_one_version(database_url: URL) -> None:
    async with open_database(database_url, 30) as one, open_database(database_url, 30) as two:
        ledgers = [Ledger(LedgerStore(database), CONFIG, ManualClock()) for database in (one, two) for _ in range(3)]
        await asyncio.gather(*(ledger.write_prices() for ledger in ledgers))
        assert len(await LedgerStore(one).prices(10)) == 1


async def test_prices_that_change_while_a_batch_is_billed_are_looked_at_again(store: LedgerStore) -> None:
    class Slow(LedgerStore):
        async def prices_at(self, moment: int) -> PriceVersion:
            version = await super().prices_at(moment)
            if other is not None:
                await other.write_prices()
            return version

    other: Ledger | None = None
    ledger = Ledger(Slow(store._database), CONFIG, ManualClock())
    await ledger.write_prices()
    other = Ledger(store, DEARER, ManualClock())
    assert await ledger.record(ended(used=USED)) is Outcome.RECORDED
    [line] = (await spend_of(ledger).logs("team-a", GetSpend())).data
    assert line.price_version == (await store.prices_at(line.finished_at)).version


async def test_a_change_is_written_down_without_any_batch(store: LedgerStore) -> None:
    ledger = Ledger(store, CONFIG, ManualClock())
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ledger.keep_prices(stop))
        ledger.use(DEARER)
        async with asyncio.timeout(30):
            while not (found := await store.prices(3)) or found[0].digest != digest_of(document_of(DEARER)):
                await asyncio.sleep(0.01)
        stop.set()
