"""The pull loop against a real JetStream: each message once, while it lives, and again when it does not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from batchyard.common import subjects
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.presence import bind_consumer
from batchyard.common.messaging.topology import WORK, work_consumer
from batchyard.common.messaging.work_loop import Done, Handler, Later, WorkLoop
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings


@pytest.fixture
def consumer_settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"work_ack_wait": 1.0})


async def publish(messaging: Messaging, count: int) -> None:
    for number in range(count):
        await messaging.js.publish(subjects.work("m", "b", number), b"%d" % number, stream=WORK)


@asynccontextmanager
async def working(
    messaging: Messaging, settings: Settings, handler: Handler, slots: int = 2, eager: int | None = None
) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = WorkLoop(messaging.js, work_consumer("m", settings), slots, handler, eager)
    await loop.declare()
    task = asyncio.create_task(loop.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.005)


async def left(messaging: Messaging) -> int:
    return (await messaging.js.stream_info(WORK)).state.messages


async def test_each_message_is_worked_on_once_and_is_gone(messaging: Messaging, consumer_settings: Settings) -> None:
    seen: list[bytes] = []

    async def handle(data: bytes) -> Done:
        seen.append(data)
        return Done()

    await publish(messaging, 10)
    async with working(messaging, consumer_settings, handle):
        await until(lambda: len(seen) == 10)
    assert sorted(seen) == [b"%d" % number for number in range(10)]
    assert await left(messaging) == 0


async def test_no_more_than_the_slots_are_taken(messaging: Messaging, consumer_settings: Settings) -> None:
    gate, running, most = asyncio.Event(), 0, 0

    async def handle(data: bytes) -> Done:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return Done()

    await publish(messaging, 6)
    async with working(messaging, consumer_settings, handle, slots=3):
        await until(lambda: running == 3)
        info = await messaging.js.consumer_info(WORK, work_consumer("m", consumer_settings).name)
        assert (info.num_ack_pending, info.num_pending) == (3, 3), "nothing is prefetched"
        gate.set()
        await until(lambda: running == 0)
    assert most == 3


async def test_a_long_job_is_kept_alive_past_its_ack_wait(messaging: Messaging, consumer_settings: Settings) -> None:
    runs = 0

    async def handle(data: bytes) -> Done:
        nonlocal runs
        runs += 1
        await asyncio.sleep(2.5)  # the ack wait is one second
        return Done()

    await publish(messaging, 1)
    async with working(messaging, consumer_settings, handle):
        await until(lambda: runs > 0)
    assert runs == 1
    assert await left(messaging) == 0


async def test_a_message_of_a_worker_that_vanished_goes_to_another(
    messaging: Messaging, consumer_settings: Settings
) -> None:
    await publish(messaging, 1)
    consumer = work_consumer("m", consumer_settings)
    seen: list[bytes] = []

    async def handle(data: bytes) -> Done:
        seen.append(data)
        return Done()

    loop = WorkLoop(messaging.js, consumer, 1, handle)
    await loop.declare()
    vanished = await messaging.js.pull_subscribe_bind(consumer.name, stream=WORK)
    await vanished.fetch(1, timeout=2)
    async with working(messaging, consumer_settings, handle):
        await until(lambda: len(seen) == 1)


async def test_an_error_brings_the_message_back(messaging: Messaging, consumer_settings: Settings) -> None:
    runs = 0

    async def handle(data: bytes) -> Done:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ZeroDivisionError
        return Done()

    await publish(messaging, 1)
    async with working(messaging, consumer_settings, handle):
        await until(lambda: runs == 2)
    assert await left(messaging) == 0


async def test_a_consumer_that_is_gone_is_made_anew(messaging: Messaging, consumer_settings: Settings) -> None:
    consumer, seen = work_consumer("m", consumer_settings), asyncio.Event()

    async def handle(data: bytes) -> Done:
        seen.set()
        return Done()

    loop = WorkLoop(
        messaging.js, consumer, 1, handle, bind=partial(bind_consumer, messaging.js, consumer, consumer_settings)
    )
    await loop.declare()
    stop = asyncio.Event()
    task = asyncio.create_task(loop.run(stop))
    await messaging.js.delete_consumer(WORK, consumer.name)
    await publish(messaging, 1)
    await asyncio.wait_for(seen.wait(), 15)
    stop.set()
    await asyncio.wait_for(task, 10)


async def test_a_job_may_ask_to_come_later(messaging: Messaging, consumer_settings: Settings) -> None:
    times: list[float] = []

    async def handle(data: bytes) -> Done | Later:
        times.append(asyncio.get_running_loop().time())
        return Later(0.3) if len(times) == 1 else Done()

    await publish(messaging, 1)
    async with working(messaging, consumer_settings, handle):
        await until(lambda: len(times) == 2)
    assert times[1] - times[0] >= 0.3


async def test_deliveries_that_were_asked_for_do_not_lengthen_the_wait_after_an_error(
    messaging: Messaging, consumer_settings: Settings
) -> None:
    times: list[float] = []

    async def handle(data: bytes) -> Done | Later:
        times.append(asyncio.get_running_loop().time())
        if len(times) <= 8:
            return Later(0)
        if len(times) == 9:
            raise ServiceUnavailable("away")
        return Done()

    await publish(messaging, 1)
    async with working(messaging, consumer_settings, handle):
        await until(lambda: len(times) == 10)
    assert 0.4 <= times[9] - times[8] < 5


def test_the_wait_grows_with_failures_in_a_row_to_a_bound() -> None:
    loop = WorkLoop.__new__(WorkLoop)
    loop._failures = {}
    waits = [loop._after_failure("a", 4.0).delay for _ in range(6)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert loop._after_failure("b", 4.0).delay == 0.5


async def test_stopping_waits_for_the_jobs_under_way(messaging: Messaging, consumer_settings: Settings) -> None:
    started, gate, finished = asyncio.Event(), asyncio.Event(), False

    async def handle(data: bytes) -> Done:
        nonlocal finished
        started.set()
        await gate.wait()
        finished = True
        return Done()

    await publish(messaging, 1)
    async with working(messaging, consumer_settings, handle) as stop:
        await started.wait()
        stop.set()
        gate.set()
    assert finished
    assert await left(messaging) == 0


async def test_who_has_the_least_to_do_gets_what_comes(messaging: Messaging, consumer_settings: Settings) -> None:
    """One process has many jobs under way and slots for more; another one is idle."""
    gate = asyncio.Event()
    taken: dict[str, int] = {"busy": 0, "idle": 0}

    def handler(name: str) -> Handler:
        async def handle(data: bytes) -> Done:
            taken[name] += 1
            if name == "busy":
                await gate.wait()
            return Done()

        return handle

    await publish(messaging, 12)
    async with working(messaging, consumer_settings, handler("busy"), slots=40, eager=2):
        await until(lambda: taken["busy"] == 12)
        async with working(messaging, consumer_settings, handler("idle"), slots=40, eager=2):
            for number in range(12, 32):
                await messaging.js.publish(subjects.work("m", "b", number), b"%d" % number, stream=WORK)
                await until(lambda total=number + 1: sum(taken.values()) == total)  # type: ignore[misc]
            gate.set()
    assert taken["idle"] >= 12
    assert await left(messaging) == 0
