"""Events become entries: once each, whatever fails in between."""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from nats.errors import Error
from sqlalchemy import URL
from structlog.testing import capture_logs
from unit.billing.ends import CONFIG, ended, eventually, on_sqlite, publish, quick_consumer, settled, spend_of, started

from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.price_book import PriceVersion
from batchyard.common import subjects
from batchyard.common.clock import ManualClock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.billing import GetSpend, SummarizeSpend
from batchyard.common.contracts.usage import Usage
from batchyard.common.messaging.topology import Consumer, billing_consumer, declare_consumer
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings
from support.nats import running_nats

Running = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
def consumer() -> Consumer:
    return quick_consumer()


@pytest.fixture
def running(messaging: Messaging, consumer: Consumer, ledger: Ledger) -> Running:
    """A context in which one replica reads events; at its end the replica is stopped and has returned."""

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        async with started(messaging, consumer, ledger):
            yield

    return run


async def entries(ledger: Ledger, tenant: str = "team-a") -> int:
    return (await spend_of(ledger).summarize(tenant, SummarizeSpend())).total.batches


async def test_an_event_becomes_one_entry_even_when_published_twice(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    event = ended()
    with capture_logs() as logs:
        async with running():
            await publish(messaging.js, event)
            await publish(messaging.js, event, "another message id")
            await eventually(lambda: settled(messaging, consumer))
    assert [log["event"] for log in logs] == ["prices.changed", "ledger.recorded", "ledger.duplicate"]
    assert [line.batch_id for line in (await spend_of(ledger).logs("team-a", GetSpend())).data] == [event.batch.id]


@on_sqlite
async def test_only_the_ends_of_batches_are_read(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    async with running():
        await messaging.js.publish(subjects.event("team-a", "batches", "b", BatchStatus.IN_PROGRESS), b"{")
        await publish(messaging.js, ended(status=BatchStatus.FAILED))
        await publish(messaging.js, ended())
        await eventually(lambda: settled(messaging, consumer))
    assert await entries(ledger) == 1


async def test_events_from_before_the_start_are_read(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    for _ in range(5):
        await publish(messaging.js, ended())
    async with running():
        await eventually(lambda: settled(messaging, consumer))
    assert await entries(ledger) == 5


async def test_two_replicas_share_the_work(messaging: Messaging, consumer: Consumer, ledger: Ledger) -> None:
    async with started(messaging, consumer, ledger), started(messaging, consumer, ledger):
        for _ in range(50):
            await publish(messaging.js, ended())
        await eventually(lambda: settled(messaging, consumer))
    assert await entries(ledger) == 50


@on_sqlite
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"version": "x"}', b"\xff"])
async def test_what_cannot_be_read_is_terminated_and_blocks_nothing(
    data: bytes, messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    subject = ended().subject
    with capture_logs() as logs:
        async with running():
            await messaging.js.publish(subject, data)
            await publish(messaging.js, ended())
            await eventually(lambda: settled(messaging, consumer))
    refused = logs[0]
    assert (refused["event"], refused["log_level"], refused["subject"]) == ("event.refused", "error", subject)
    assert await entries(ledger) == 1


async def test_numbers_that_cannot_be_true_are_terminated(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    with capture_logs() as logs:
        async with running():
            await publish(messaging.js, ended(used={"one": Usage.of(-5, 0, 0, 0)}))
            await eventually(lambda: settled(messaging, consumer))
    assert [log["event"] for log in logs] == ["prices.changed", "event.refused"]
    assert await entries(ledger) == 0


@on_sqlite
async def test_an_event_under_the_subject_of_another_tenant_is_refused(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    event = ended("team-a")
    async with running():
        await messaging.js.publish(
            event.model_copy(update={"tenant": "team-b"}).subject, event.model_dump_json().encode()
        )
        await eventually(lambda: settled(messaging, consumer))
    assert await entries(ledger, "team-a") == await entries(ledger, "team-b") == 0


@on_sqlite
async def test_a_locked_database_delays_and_loses_nothing(
    messaging: Messaging, ledger: Ledger, database_file: Path
) -> None:
    async def given_back() -> bool:
        return any(log["event"] == "ledger.unavailable" for log in logs)

    consumer = billing_consumer()  # patient enough for SQLite's own waiting
    lock = sqlite3.connect(database_file)
    lock.execute("BEGIN IMMEDIATE")
    with capture_logs() as logs:
        async with started(messaging, consumer, ledger):
            for _ in range(3):
                await publish(messaging.js, ended())
            await eventually(given_back)
            lock.close()
            await eventually(lambda: settled(messaging, consumer), within=60)
    assert await entries(ledger) == 3


@on_sqlite
async def test_a_database_that_cannot_be_written_delays_and_loses_nothing(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running, database_file: Path
) -> None:
    async def given_back() -> bool:
        return any(log["event"] == "ledger.unavailable" for log in logs)

    with sqlite3.connect(database_file) as raw:
        raw.execute("ALTER TABLE ledger_entries RENAME TO elsewhere")
    with capture_logs() as logs:
        async with running():
            await publish(messaging.js, ended())
            await eventually(given_back)
            with raw:
                raw.execute("ALTER TABLE elsewhere RENAME TO ledger_entries")
            await eventually(lambda: settled(messaging, consumer))
    raw.close()
    assert await entries(ledger) == 1


async def test_a_bug_met_by_one_event_does_not_stop_the_others(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, store: LedgerStore
) -> None:
    bad = ended("unlucky")

    class Buggy(LedgerStore):
        async def add(self, entries: Sequence[LedgerEntry], version: PriceVersion | None = None) -> bool:
            if entries[0].raw_batch_id == bad.raw_batch_id:
                raise ZeroDivisionError
            return await super().add(entries, version)

    async def recorded() -> bool:
        return await entries(ledger) == 1

    buggy = Ledger(Buggy(store._database), CONFIG, ManualClock())
    async with started(messaging, consumer, buggy):
        await publish(messaging.js, bad)
        await publish(messaging.js, ended())
        await eventually(recorded)
    async with started(messaging, consumer, ledger):
        await eventually(lambda: settled(messaging, consumer))
    assert await entries(ledger, "unlucky") == 1


KILLED_BEFORE_THE_ACK = """
import asyncio, os, signal, sys
from batchyard.billing.database import open_database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.price_book import PriceVersion
from batchyard.billing.subscriber import EventSubscriber
from batchyard.common.clock import SystemClock
from batchyard.common.service import open_messaging
from batchyard.common.settings import Settings
from nats.aio.msg import Msg
from sqlalchemy import make_url
from unit.billing.ends import CONFIG, quick_consumer

async def die(message, timeout):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    Msg.ack_sync = die
    settings = Settings(nats_url=sys.argv[1])
    async with open_database(make_url(sys.argv[2]), 10) as database, open_messaging("billing", settings) as messaging:
        ledger = Ledger(LedgerStore(database), CONFIG, SystemClock())
        await EventSubscriber(messaging.js, quick_consumer(), ledger, settings).run(asyncio.Event())

asyncio.run(main())
"""


async def test_a_replica_killed_between_commit_and_ack_leaves_one_entry(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running, settings: Settings, database_url: URL
) -> None:
    await declare_consumer(messaging.js, consumer)
    await publish(messaging.js, ended())
    replica = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED_BEFORE_THE_ACK,
        settings.nats_url,
        database_url.render_as_string(hide_password=False),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert await asyncio.wait_for(replica.wait(), 30) == -signal.SIGKILL
    assert await entries(ledger) == 1
    assert not await settled(messaging, consumer)
    with capture_logs() as logs:
        async with running():
            await eventually(lambda: settled(messaging, consumer))
    assert [log["event"] for log in logs] == ["ledger.duplicate"]
    assert await entries(ledger) == 1


@on_sqlite
async def test_work_goes_on_when_nats_comes_back(tmp_path: Path, ledger: Ledger, consumer: Consumer) -> None:
    directory = tmp_path / "restarted"
    with running_nats(directory) as url:
        port = int(url.rsplit(":", 1)[1])
    with running_nats(directory, port=port) as url:
        opened = open_messaging("billing", Settings(nats_url=url))
        messaging = await opened.__aenter__()
        subscriber = started(messaging, consumer, ledger)
        await subscriber.__aenter__()
        await publish(messaging.js, ended())
        await eventually(lambda: settled(messaging, consumer))
    with running_nats(directory, port=port):
        await eventually(lambda: _published(messaging), within=30)
        await eventually(lambda: settled(messaging, consumer), within=30)
        await subscriber.__aexit__(None, None, None)
        await opened.__aexit__(None, None, None)
    assert await entries(ledger) == 2


_LATER = ended()


async def _published(messaging: Messaging) -> bool:
    try:
        await publish(messaging.js, _LATER)
    except (Error, OSError):
        return False
    return True


@on_sqlite
async def test_a_consumer_that_was_lost_is_made_again(
    messaging: Messaging, consumer: Consumer, ledger: Ledger, running: Running
) -> None:
    async with running():
        await publish(messaging.js, ended())
        await eventually(lambda: settled(messaging, consumer))
        await messaging.js.delete_consumer(consumer.stream, consumer.name)
        await publish(messaging.js, ended())

        async def both() -> bool:
            return await entries(ledger) == 2

        await eventually(both)


@on_sqlite
async def test_stopping_takes_no_time(messaging: Messaging, running: Running) -> None:
    async with asyncio.timeout(2.0):
        async with running():
            await publish(messaging.js, ended())
