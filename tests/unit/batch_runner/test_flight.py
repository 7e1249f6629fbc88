"""A request that is taken back costs its line nothing; any other cancellation goes through."""

import asyncio

import pytest

from batchyard.batch_runner.allowance import Allowance
from batchyard.batch_runner.flight import Flight, Flights
from batchyard.common.clock import SystemClock

CLOCK = SystemClock()


@pytest.fixture
def flights() -> Flights:
    return Flights(Allowance(None, None, 0.0))


async def fly(flights: Flights, done: asyncio.Event | None = None) -> str:
    with Flight(flights, CLOCK) as flight:
        try:
            await (done or asyncio.Event()).wait()
        except asyncio.CancelledError:
            if done is None:
                raise
        return "recalled but answered" if flight.is_recalled else "answered"
    return "taken back"


async def under_way(flights: Flights, count: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(fly(flights)) for _ in range(count)]
    await asyncio.sleep(0)
    assert len(flights.under_way) == count
    return tasks


async def test_the_youngest_are_taken_back(flights: Flights) -> None:
    tasks = await under_way(flights, 5)
    flights.recall_youngest(2)
    assert await asyncio.gather(*tasks[3:]) == ["taken back"] * 2
    assert not any(task.done() for task in tasks[:3])
    assert (flights.traffic.taken_back, len(flights.under_way)) == (2, 3)
    flights.recall_youngest(99)
    assert await asyncio.gather(*tasks[:3]) == ["taken back"] * 3


async def test_who_is_cancelled_as_well_is_cancelled(flights: Flights) -> None:
    (task,) = await under_way(flights, 1)
    flights.recall_youngest(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flights.traffic.taken_back == 0


async def test_a_timeout_around_it_still_counts(flights: Flights) -> None:
    async def limited() -> str:
        async with asyncio.timeout(0.01):
            return await fly(flights)

    with pytest.raises(TimeoutError):
        await limited()
    assert not flights.under_way


async def test_an_answer_that_came_all_the_same_is_kept(flights: Flights) -> None:
    task = asyncio.create_task(fly(flights, asyncio.Event()))
    await asyncio.sleep(0)
    flights.recall_youngest(1)
    assert await task == "recalled but answered"
    assert flights.traffic.taken_back == 0
    assert task.cancelling() == 0
