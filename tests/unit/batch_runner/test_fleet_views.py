"""What several runners see of the servers, together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from batchyard.batch_runner.fleet_views import FleetViews, together
from batchyard.batch_runner.presence import Presence
from batchyard.common import subjects
from batchyard.common.clock import SystemClock
from batchyard.common.contracts.fleet import DeploymentCounters, DeploymentState, LimitCut, RunnerView, ServerLoad
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings

NONE = dict.fromkeys(DeploymentCounters.model_fields, 0)


def state(name: str = "d", **changes: Any) -> DeploymentState:
    members: dict[str, Any] = {
        "id": name,
        "model": "llama",
        "api_base": "http://gpu",
        "status": "up",
        "limit": 10,
        "max_parallel_requests": 100,
        "in_flight": 5,
        "mode": "metrics",
        "counters": DeploymentCounters(**NONE),
    }
    return DeploymentState(**{**members, **changes})


def load(at: float, running: float, waiting: float = 0, others: float = 0) -> ServerLoad:
    return ServerLoad(at=at, running=running, waiting=waiting, others=others)


def view(runner: str, *states: DeploymentState) -> RunnerView:
    return RunnerView(runner=runner, data=list(states))


def test_what_runners_have_is_added_up() -> None:
    first = state(limit=10, in_flight=5, counters=DeploymentCounters(**{**NONE, "requests": 7, "answered": 6}))
    second = state(limit=30, in_flight=20, counters=DeploymentCounters(**{**NONE, "requests": 3}))
    (sum_,) = together([view("a", first), view("b", second)])
    assert (sum_.limit, sum_.in_flight, sum_.max_parallel_requests) == (40, 25, 200)
    assert (sum_.counters.requests, sum_.counters.answered) == (10, 6)


def test_the_newest_load_counts_and_others_are_those_of_no_runner() -> None:
    first = state(in_flight=5, load=load(1.0, 50, others=45), reason="old")
    second = state(in_flight=20, load=load(2.0, 30, waiting=2, others=12), reason="new")
    (sum_,) = together([view("a", first), view("b", second)])
    assert sum_.load is not None
    assert (sum_.load.at, sum_.load.running, sum_.load.others, sum_.reason) == (2.0, 30, 7, "new")


def test_a_deployment_is_as_well_as_the_runner_finds_it_that_finds_it_best() -> None:
    states = [state(status="down", circuit="open"), state(status="resting", rests_until=9.0, circuit="half_open")]
    (sum_,) = together([view(str(index), one) for index, one in enumerate(states)])
    assert (sum_.status, sum_.rests_until, sum_.circuit) == ("resting", 9.0, "half_open")
    (sum_,) = together([view(str(index), one) for index, one in enumerate([*states, state()])])
    assert (sum_.status, sum_.rests_until, sum_.circuit) == ("up", None, "closed")


def test_the_last_ten_cuts_are_shown_the_newest_first() -> None:
    def cuts(*times: int) -> tuple[LimitCut, ...]:
        return tuple(LimitCut(at=at, reason="queue", before=9, after=8) for at in times)

    (sum_,) = together([view("a", state(cuts=cuts(*range(19, 0, -2)))), view("b", state(cuts=cuts(*range(20, 0, -2))))])
    assert [cut.at for cut in sum_.cuts] == list(range(20, 10, -1))


def test_deployments_that_only_some_runners_have_are_shown() -> None:
    found = together([view("a", state("d1")), view("b", state("d2"), state("d1"))])
    assert [one.id for one in found] == ["d1", "d2"]


# --- asked over NATS


@pytest.fixture
async def runner(settings: Settings) -> AsyncIterator[Callable[[str], Any]]:
    """Opens runners: `await runner("a")`; `await runner.aclose()` lets all go."""
    opened_before: list[Presence] = []
    async with AsyncExitStack() as stack:

        async def opened(name: str) -> FleetViews:
            messaging: Messaging = await stack.enter_async_context(open_messaging(name, settings))
            presence = Presence(messaging.connection, name, SystemClock())
            views = FleetViews(messaging.connection, presence, lambda: view(name, state()), SystemClock())
            await views.listen()
            await presence.listen()
            opened_before.append(presence)
            async with asyncio.timeout(10):
                while any(len(one.others) < len(opened_before) - 1 for one in opened_before):
                    await asyncio.sleep(0.01)
            return views

        yield opened


async def test_every_runner_is_asked_by_whichever_answers(runner: Any) -> None:
    runners = [await runner(name) for name in "abc"]
    for one in runners:
        found = await one.collect()
        assert [one.runner for one in found.runners] == ["a", "b", "c"]
        assert found.data[0].limit == 30
    assert found.runner == "c"


async def test_a_runner_that_is_gone_is_not_there(runner: Any, settings: Settings) -> None:
    staying = await runner("a")
    async with open_messaging("b", settings) as messaging:
        presence = Presence(messaging.connection, "b", SystemClock())
        going = FleetViews(messaging.connection, presence, lambda: view("b", state()), SystemClock())
        await going.listen()
        await presence.listen()
        async with asyncio.timeout(10):
            while len((await staying.collect()).runners) != 2:
                await asyncio.sleep(0.01)
    assert [one.runner for one in (await staying.collect()).runners] == ["a"]


async def test_a_runner_that_stops_says_so(runner: Any, settings: Settings, messaging: Messaging) -> None:
    staying, going = [Presence(messaging.connection, name, SystemClock()) for name in "ab"]
    await staying.listen()
    await going.listen()
    stop = asyncio.Event()
    running = asyncio.create_task(going.run(stop, asyncio.Event()))
    async with asyncio.timeout(10):
        while not (staying.others == {"b"} and going.others == {"a"}):
            await asyncio.sleep(0.01)
        assert staying.is_first
        assert not going.is_first
        stop.set()
        await running
        while staying.others:
            await asyncio.sleep(0.01)


async def test_those_who_ask_at_the_same_time_ask_once(runner: Any, messaging: Messaging) -> None:
    asked = await messaging.connection.subscribe(subjects.FLEET_CONTROL)
    views = await runner("a")
    await messaging.connection.flush()
    await asyncio.gather(*(views.collect() for _ in range(10)))
    await messaging.connection.flush()
    assert asked.pending_msgs == 1
    await asked.unsubscribe()  # or leaving would wait for half a minute until somebody reads it


async def test_an_answer_that_cannot_be_read_is_left_out(runner: Any, messaging: Messaging) -> None:
    async def nonsense(message: Any) -> None:
        await message.respond(b'{"runner": 7}')

    await messaging.connection.subscribe(subjects.FLEET_CONTROL, cb=nonsense)
    await messaging.connection.flush()
    views = await runner("a")
    await runner("b")
    assert [one.runner for one in (await views.collect()).runners] == ["a", "b"]
