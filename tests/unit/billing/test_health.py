"""Readiness tells what is wrong, and tells it in time."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
from unit.billing.ends import ended, on_sqlite, spend_of

from batchyard.billing.app import checks
from batchyard.billing.budgets import Budgets
from batchyard.billing.handlers import SERVICE, command_router
from batchyard.billing.ledger import Ledger
from batchyard.common.contracts.billing import GetSpend, SummarizeSpend
from batchyard.common.contracts.health import CheckBilling, Health
from batchyard.common.errors import InvalidRequest, ServiceUnavailable
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.topology import billing_consumer, declare_consumer
from batchyard.common.service import Messaging

ANYONE = "system"
pytestmark = on_sqlite


@pytest.fixture
async def client(messaging: Messaging, ledger: Ledger, budgets: Budgets) -> AsyncIterator[CommandClient]:
    consumer = billing_consumer()
    await declare_consumer(messaging.js, consumer)
    async with HealthChecks(SERVICE, checks(messaging, consumer, ledger), timeout=1.8) as health:
        messaging.broker.include_router(command_router(spend_of(ledger), budgets, health))
        await messaging.broker.start()
        yield CommandClient(messaging.connection, timeout=10.0)


async def test_all_is_well(client: CommandClient) -> None:
    checks = {"nats": "ok", "jetstream": "ok", "database": "ok"}
    assert await client.call(ANYONE, CheckBilling()) == Health(service="billing", status="ok", checks=checks)


async def test_a_lost_consumer_is_told(client: CommandClient, messaging: Messaging) -> None:
    consumer = billing_consumer()
    await messaging.js.delete_consumer(consumer.stream, consumer.name)
    health = await client.call(ANYONE, CheckBilling())
    assert health.status == "unhealthy"
    assert "consumer not found" in health.checks["jetstream"]


async def test_a_database_that_cannot_be_written_is_told_in_time(client: CommandClient, database_file: Path) -> None:
    lock = sqlite3.connect(database_file)
    lock.execute("BEGIN IMMEDIATE")
    begun = monotonic()
    health = await client.call(ANYONE, CheckBilling())
    assert monotonic() - begun < 4.0
    assert (health.status, health.checks["nats"], health.checks["jetstream"]) == ("unhealthy", "ok", "ok")
    assert "did not answer" in health.checks["database"]
    lock.close()
    assert (await client.call(ANYONE, CheckBilling())).status == "ok"


async def test_the_ledger_answers_over_nats(client: CommandClient, ledger: Ledger) -> None:
    event = ended("team a/1")
    await ledger.record(event)
    page = await client.call("team a/1", GetSpend())
    assert [line.batch_id for line in page.data] == [event.batch.id]
    assert page == await spend_of(ledger).logs("team a/1", GetSpend())
    report = await client.call("team a/1", SummarizeSpend(group_by="day"))
    assert report.total.cost == page.data[0].cost
    assert (await client.call("team-b", GetSpend())).data == []
    with pytest.raises(InvalidRequest, match="No ledger entry") as caught:
        await client.call("team-b", GetSpend(after=event.batch.id))
    assert caught.value.param == "after"


async def test_a_database_away_is_an_answer_that_invites_a_retry(client: CommandClient, database_file: Path) -> None:
    raw = sqlite3.connect(database_file)
    with raw:
        raw.execute("DROP TABLE ledger_entries")
    raw.close()
    with pytest.raises(ServiceUnavailable, match="database did not answer") as caught:
        await client.call("team-a", GetSpend())
    assert caught.value.retry_after == 2
