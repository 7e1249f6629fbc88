"""A cancelled call leaves nothing running, and nothing unreleased."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from batchyard.common.objects.threads import BlockingCalls, in_windows


class Gate:
    """A blocking call that says when it runs, and ends when it is told to."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.open = threading.Event()
        self.ended = False
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> str:
        self._loop.call_soon_threadsafe(self.running.set)
        assert self.open.wait(30)
        self.ended = True
        return "through"


@pytest.fixture
async def calls() -> AsyncIterator[BlockingCalls]:
    calls = BlockingCalls(1, "test")
    yield calls
    await calls.close()


async def test_a_running_call_is_waited_for(calls: BlockingCalls) -> None:
    gate = Gate()
    task = asyncio.create_task(calls.run(gate))
    await gate.running.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.ended


async def test_a_waiting_call_is_not_made_but_a_cleaning_one_is(calls: BlockingCalls) -> None:
    gate, made = Gate(), list[str]()
    first = asyncio.create_task(calls.run(gate))
    await gate.running.wait()
    waiting = asyncio.create_task(calls.run(made.append, "waiting"))
    cleaning = asyncio.create_task(calls.finish(made.append, "cleaning"))
    await asyncio.sleep(0)
    waiting.cancel()
    cleaning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open.set()
    assert await first == "through"
    with pytest.raises(asyncio.CancelledError):
        await cleaning
    assert made == ["cleaning"]


async def test_what_a_cancelled_call_acquired_is_released(calls: BlockingCalls) -> None:
    gate, released = Gate(), list[str]()
    task = asyncio.create_task(calls.acquire(gate, released.append))
    await gate.running.wait()
    task.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert released == ["through"]


async def test_a_failure_after_the_cancellation_is_not_lost_in_a_warning(calls: BlockingCalls) -> None:
    gate = Gate()

    def fail() -> None:
        gate()
        raise OSError

    task = asyncio.create_task(calls.run(fail))
    await gate.running.wait()
    task.cancel()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_windows_keep_the_order_and_the_width() -> None:
    active, most = 0, 0

    async def double(number: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0)
        active -= 1
        return number * 2

    windows = [window async for window in in_windows(double, range(10), 4)]
    assert windows == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
    assert most == 4


async def test_a_failure_in_a_window_is_raised_as_itself() -> None:
    async def fail(number: int) -> None:
        if number == 2:
            raise KeyError(number)
        await asyncio.sleep(10)

    with pytest.raises(KeyError):
        [window async for window in in_windows(fail, range(5), 3)]
