"""A request that is taken back costs its line nothing; any other cancellation goes through."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.allowance import Allowance
from batchyard.batch_runner.flight import Flight, Flights
from batchyard.common.clock import ManualClock, SystemClock

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


moments = st.lists(
    st.tuples(st.floats(0, 5), st.sampled_from(["begin", "end", "look"]), st.integers(0, 50)), max_size=60
)


@given(moments)
async def test_shares_of_a_server_never_add_up_to_more_than_the_time(moments: list[tuple[float, str, int]]) -> None:
    clock = ManualClock()
    flights = Flights(Allowance(None, None, 0.0))
    began = clock.monotonic()
    there: list[Flight] = []
    shares = alone = 0.0
    for seconds, what, number in moments:
        alone += seconds if there and not flights.others else 0.0
        clock.advance(seconds)
        if what == "begin":
            there.append(Flight(flights, clock).__enter__())
        elif what == "look":
            flights.sees_others(number, clock.monotonic())
        elif there:
            ended = there.pop(number % len(there))
            ended.__exit__(None, None, None)
            shares += ended.busy
    for flight in there:
        flight.__exit__(None, None, None)
        shares += flight.busy
    assert alone <= shares + 1e-6
    assert shares <= clock.monotonic() - began + 1e-6
