"""A service that may not declare the topology waits for who may."""

import asyncio

import pytest
import structlog

from batchyard.common.declare import declare
from batchyard.common.messaging import presence
from batchyard.common.messaging.presence import TopologyMissing, bind_consumer, check_topology
from batchyard.common.messaging.topology import EVENTS, billing_consumer
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings


@pytest.fixture
def waiting(settings: Settings) -> Settings:
    return settings.model_copy(update={"declare_topology": False})


async def test_it_starts_once_the_topology_is_declared(waiting: Settings) -> None:
    async def start() -> None:
        async with open_messaging("batch-runner", waiting):
            pass

    with structlog.testing.capture_logs() as logs:
        started = asyncio.create_task(start())
        async with asyncio.timeout(20):
            while not any(entry["event"] == "topology.missing" for entry in logs):
                await asyncio.sleep(0.01)
            assert not started.done()
            await declare(waiting, asyncio.Event())
            await started


async def test_it_says_what_is_missing_and_what_to_do(waiting: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchyard.common.service._JETSTREAM_PATIENCE", 0.2)
    with pytest.raises(TopologyMissing, match=r"stream EVENTS.*run `batchyard topology`"):
        async with open_messaging("billing", waiting):
            pass


async def test_it_asks_for_nothing_that_it_does_not_use(messaging: Messaging, waiting: Settings) -> None:
    await messaging.js.delete_stream(EVENTS)
    await check_topology(messaging.js, waiting, "file-store")
    with pytest.raises(TopologyMissing, match="stream EVENTS"):
        await check_topology(messaging.js, waiting, "batch-runner")


async def test_a_consumer_of_others_is_bound_and_not_made(messaging: Messaging, waiting: Settings) -> None:
    with pytest.raises(TopologyMissing, match="consumer billing of the stream EVENTS"):
        await bind_consumer(messaging.js, billing_consumer(), waiting)
    with pytest.raises(TopologyMissing, match="consumer billing"):
        await check_topology(messaging.js, waiting, "billing")
    await declare(waiting, asyncio.Event())
    await bind_consumer(messaging.js, billing_consumer(), waiting)
    await check_topology(messaging.js, waiting, "billing")


async def test_what_is_set_up_otherwise_is_told(messaging: Messaging, waiting: Settings) -> None:
    other = waiting.model_copy(update={"events_max_age": 3600.0})
    with structlog.testing.capture_logs() as logs:
        await check_topology(messaging.js, waiting, "batch-runner")
        assert logs == []
        await check_topology(messaging.js, other, "batch-runner")
    assert [(entry["stream"], entry["settings"]) for entry in logs] == [(EVENTS, ["max_age"])]
    await declare(other, asyncio.Event())
    assert (
        presence.differences(
            (await messaging.js.stream_info(EVENTS)).config, (await messaging.js.stream_info(EVENTS)).config
        )
        == []
    )
    with structlog.testing.capture_logs() as logs:
        await check_topology(messaging.js, other, "batch-runner")
    assert logs == []
