"""Places on deployments: least loaded first, waiters in order, the dead left alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from batchyard.batch_runner.exchange import Answer
from batchyard.batch_runner.fairness import Claim
from batchyard.batch_runner.flight import Flight
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.part import Part
from batchyard.batch_runner.pool import Pool, PoolRetired
from batchyard.batch_runner.upstream import Health
from batchyard.common.clock import SystemClock
from batchyard.common.config import Deployment


class Servers:
    """Health of servers that exist only by name."""

    def __init__(self) -> None:
        self.alive = True
        self.otherwise = Health.SILENT
        self.asked = 0

    async def post(self, deployment: Deployment, path: str, body: bytes, request_id: str) -> Answer:
        raise AssertionError("a pool sends nothing")

    async def models(self, deployment: Deployment) -> list[str] | None:
        return None

    async def metrics(self, deployment: Deployment) -> str | None:
        return None

    async def health(self, deployment: Deployment) -> Health:
        self.asked += 1
        await asyncio.sleep(0)
        return Health.ALIVE if self.alive else self.otherwise


def deployment(name: str, limit: int | None = 2, weight: float = 1.0) -> Deployment:
    return Deployment(
        id=name, pool="m", model="m", base_url=f"http://{name}", max_parallel_requests=limit, weight=weight
    )


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
async def pool(servers: Servers) -> AsyncIterator[Pool]:
    pool = Pool("m", [deployment("a"), deployment("b")], 9, servers, SystemClock(), 0.01)
    yield pool
    await pool.close()


def limit(pool: Pool) -> int:
    return sum(member.limit for member in pool.members)


async def take(pool: Pool, count: int) -> list[str]:
    return [(await pool.acquire()).deployment.id for _ in range(count)]


def fail(pool: Pool, member: Member, times: int) -> None:
    for _ in range(times):
        pool.failed(member, SystemClock().monotonic())


async def test_the_least_loaded_deployment_is_taken(pool: Pool) -> None:
    assert sorted(await take(pool, 2)) == ["a", "b"]


async def test_weights_share_the_load(servers: Servers) -> None:
    pool = Pool("m", [deployment("a", 9), deployment("b", 9, weight=3.0)], 9, servers, SystemClock(), 0.01)
    taken = await take(pool, 8)
    assert (taken.count("a"), taken.count("b")) == (2, 6)


async def test_no_deployment_gets_more_than_its_limit(pool: Pool) -> None:
    await take(pool, limit(pool))
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    pool.release(pool.members[1])
    assert (await waiting).deployment.id == "b"


async def test_waiters_are_served_in_order(pool: Pool) -> None:
    await take(pool, limit(pool))
    served: list[int] = []

    async def wait(number: int) -> None:
        await pool.acquire()
        served.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(4)]
    await asyncio.sleep(0)
    for _ in range(2):
        for member in pool.members:
            pool.release(member)
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2, 3]


async def test_a_place_goes_to_the_batch_that_holds_the_fewest(pool: Pool) -> None:
    with pool.claimed("t", "large") as large, pool.claimed("t", "small") as small:
        held = [await pool.acquire(claim=large) for _ in range(limit(pool))]
        served: list[str] = []

        async def wait(name: str, claim: Claim) -> None:
            await pool.acquire(claim=claim)
            served.append(name)

        tasks = [asyncio.create_task(wait("large", large)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(wait("small", small)) for _ in range(4)]
        await asyncio.sleep(0)
        for member in held:
            pool.release(member, large)
            await asyncio.sleep(0)
        assert served == ["small", "small", "large", "large"], "two places each"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_waiter_goes_elsewhere_if_there_is_an_elsewhere(pool: Pool) -> None:
    await take(pool, limit(pool))
    a, b = pool.members
    waiting = [asyncio.create_task(pool.acquire(avoid=a)) for _ in range(2)]
    await asyncio.sleep(0)
    pool.release(a)
    assert await asyncio.wait_for(waiting[0], 1) is a, "the only one that is open"
    with_choice = asyncio.create_task(pool.acquire(avoid=a))
    waiting[1].cancel()
    await asyncio.sleep(0)
    a.in_flight -= 1
    pool.release(b)
    assert await asyncio.wait_for(with_choice, 1) is b


async def test_a_waiter_that_gives_up_passes_its_turn_on(pool: Pool) -> None:
    await take(pool, limit(pool))
    first, second = asyncio.create_task(pool.acquire()), asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    pool.release(pool.members[0])
    first.cancel()
    assert (await asyncio.wait_for(second, 1)).deployment.id == "a"
    assert pool.members[0].in_flight == 2


async def test_a_dead_deployment_is_left_alone_until_it_answers(pool: Pool, servers: Servers) -> None:
    servers.alive = False
    dead = pool.members[0]
    assert not await pool.health.confirm_alive(dead)
    assert await take(pool, 2) == ["b", "b"]
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    servers.alive = True
    assert (await asyncio.wait_for(waiting, 5)).deployment.id == "a"


async def test_all_who_ask_at_once_share_one_question(pool: Pool, servers: Servers) -> None:
    member = pool.members[0]
    assert all(await asyncio.gather(*(pool.health.confirm_alive(member) for _ in range(50))))
    assert servers.asked == 1


async def test_waiters_wait_while_every_deployment_is_down(pool: Pool, servers: Servers) -> None:
    servers.alive = False
    for member in pool.members:
        pool.health.set_aside(member)
    assert pool.is_down
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(4)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    servers.alive = True
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_a_line_goes_elsewhere_after_a_failure(pool: Pool) -> None:
    first = await pool.acquire()
    pool.release(first)
    assert await pool.acquire(avoid=first) is not first


async def test_a_deployment_that_only_fails_is_left_alone_while_others_work(pool: Pool) -> None:
    bad, good = pool.members
    fail(pool, bad, 5)
    assert await take(pool, 2) == [good.deployment.id] * 2


async def test_one_that_cools_down_gets_waiters_once_that_is_over(pool: Pool) -> None:
    bad = pool.members[0]
    fail(pool, bad, 5)
    await take(pool, 2)
    assert (await asyncio.wait_for(pool.acquire(), 5)) is bad


async def test_one_that_is_tried_again_gets_a_few_requests_until_they_are_answered(servers: Servers) -> None:
    pool = Pool("m", [deployment("a", 50), deployment("b", 0)], 9, servers, SystemClock(), 0.01)
    bad = pool.members[0]
    pool.members[1].limit = 0
    fail(pool, bad, 5)
    assert await asyncio.wait_for(take(pool, 3), 5) == ["a"] * 3
    more = [asyncio.create_task(pool.acquire()) for _ in range(10)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in more)
    for _ in range(3):
        pool.succeeded(bad, SystemClock().monotonic())
    assert await asyncio.wait_for(asyncio.gather(*more), 5) == [bad] * 10
    await pool.close()


async def test_the_only_deployment_is_not_left_alone_for_its_failures(servers: Servers) -> None:
    pool = Pool("m", [deployment("a")], 9, servers, SystemClock(), 0.01)
    fail(pool, pool.members[0], 50)
    assert await asyncio.wait_for(take(pool, 1), 1) == ["a"]


async def test_one_that_only_says_that_it_is_unwell_is_tried_after_a_while(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.batch_runner.health_watch._UNWELL_PATIENCE", 0.05)
    pool = Pool("m", [deployment("a", 9)], 9, servers, SystemClock(), 0.01)
    member = pool.members[0]
    servers.alive, servers.otherwise = False, Health.UNWELL
    assert not await pool.health.confirm_alive(member)
    assert await asyncio.wait_for(pool.acquire(), 5) is member
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.02)
    assert not waiting.done(), "one request tells enough"
    assert not await pool.health.confirm_alive(member), "nor does a trial that fails burn attempts"
    waiting.cancel()
    assert await asyncio.wait_for(pool.acquire(), 5) is member
    pool.succeeded(member, SystemClock().monotonic())
    assert member.breaker.is_closed
    assert await pool.health.confirm_alive(member), "its word counts no more"
    await pool.close()


async def test_one_that_says_nothing_is_not_tried(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchyard.batch_runner.health_watch._UNWELL_PATIENCE", 0.0)
    pool = Pool("m", [deployment("a")], 9, servers, SystemClock(), 0.01)
    servers.alive = False
    pool.health.set_aside(pool.members[0])
    async with asyncio.timeout(5):
        while servers.asked < 10:
            await asyncio.sleep(0.01)
    assert pool.is_down
    await pool.close()


async def test_a_deployment_that_asks_for_rest_gets_it(servers: Servers) -> None:
    pool = Pool("m", [deployment("a")], 9, servers, SystemClock(), 0.01)
    member = pool.members[0]
    pool.rest(member, 0.05)
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(pool.acquire(), 5)
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_a_deployment_gets_no_more_requests_in_a_minute_than_it_may(servers: Servers) -> None:
    limited = Deployment(id="a", pool="m", model="m", base_url="http://a", rpm=1200)
    pool = Pool("m", [limited], 9, servers, SystemClock(), 0.01)

    async def line() -> None:
        member = await pool.acquire()
        with Flight(member.flights, SystemClock()):
            pass
        pool.release(member)

    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(asyncio.gather(*(line() for _ in range(30))), 5)
    assert asyncio.get_running_loop().time() - began >= 0.45, "20 at once, then 20 in a second"
    await pool.close()


async def test_a_deployment_with_a_queue_counts_as_more_loaded(pool: Pool) -> None:
    a, _ = pool.members
    a.queue = 5.0
    assert await take(pool, 2) == ["b", "b"]
    assert await take(pool, 1) == ["a"], "rather than none"


async def test_the_search_for_a_limit_begins_low_and_stays_below_the_ceiling(servers: Servers) -> None:
    pool = Pool("m", [deployment("a", 100), deployment("b", 4)], 9, servers, SystemClock(), 0.01, start_limit=32)
    assert [member.limit for member in pool.members] == [32, 4]
    pool.update([deployment("a", 8), deployment("b", 50)])
    assert [member.limit for member in pool.members] == [8, 4], "what was found is kept, the ceiling holds"


async def test_a_higher_limit_lets_waiters_in(pool: Pool) -> None:
    await take(pool, 4)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    pool.drive(pool.members[1], 3)
    assert (await asyncio.wait_for(waiting, 1)).deployment.id == "b"


class SlowClock(SystemClock):
    """Goes at a third of the pace of the loop's timers: to it, each of them fires early."""

    def monotonic(self) -> float:
        return super().monotonic() / 3


async def test_a_timer_that_fires_early_does_not_leave_the_waiters_asleep(servers: Servers) -> None:
    pool = Pool("m", [deployment("a")], 9, servers, SlowClock(), 0.01)
    pool.rest(pool.members[0], 0.05)
    assert (await asyncio.wait_for(pool.acquire(), 5)).deployment.id == "a"


# --- deployments that come and go


async def test_what_stays_keeps_its_state(pool: Pool) -> None:
    await take(pool, 3)
    a, b = pool.members
    pool.update([deployment("a"), deployment("b", limit=5, weight=2.0), deployment("c")])
    assert pool.members[:2] == [a, b]
    assert a.in_flight + b.in_flight == 3
    assert (b.limit, b.load) == (5, b.in_flight / 2)
    assert (await pool.acquire()).deployment.id == "c"


async def test_a_waiter_goes_to_a_deployment_that_comes(pool: Pool) -> None:
    await take(pool, limit(pool))
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    pool.update([deployment("a"), deployment("b"), deployment("c")])
    members = await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert [member.deployment.id for member in members] == ["c", "c"]


async def test_what_is_removed_gets_nothing_new_and_may_finish(pool: Pool, servers: Servers) -> None:
    (gone,) = [member for member in [await pool.acquire(), await pool.acquire()] if member.deployment.id == "a"]
    pool.update([deployment("b")])
    assert await take(pool, 1) == ["b"]
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    pool.release(gone)
    await asyncio.sleep(0)
    assert not waiting.done()
    servers.alive = False
    pool.health.set_aside(gone)
    assert not await pool.health.confirm_alive(gone)
    assert servers.asked == 0, "nobody looks after a server that is gone"
    waiting.cancel()


async def test_a_dead_deployment_is_not_watched_once_it_is_removed(pool: Pool, servers: Servers) -> None:
    servers.alive = False
    pool.health.set_aside(pool.members[0])
    assert pool.health._watches
    pool.update([deployment("b")])
    async with asyncio.timeout(5):
        while pool.health._watches:
            await asyncio.sleep(0)
    assert servers.asked == 0


async def test_a_deployment_at_another_address_is_another_one(pool: Pool) -> None:
    pool.members[0].breaker.trip(0.0)
    moved = Deployment(id="a", pool="m", model="m", base_url="http://elsewhere")
    pool.update([moved])
    assert not pool.is_down
    assert (await pool.acquire()).deployment is moved


async def test_a_retired_pool_sends_everybody_away(pool: Pool) -> None:
    held = await pool.acquire()
    await take(pool, limit(pool) - 1)
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    pool.retire()
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1)
    assert [type(one) for one in found] == [PoolRetired] * 3
    with pytest.raises(PoolRetired):
        await pool.acquire()
    pool.release(held)


# --- beside other runners


async def test_a_runner_keeps_to_its_part_of_the_limits(servers: Servers) -> None:
    pool = Pool("m", [deployment("a", 5), deployment("b", None)], 9, servers, SystemClock(), 0.01, start_limit=32)
    a, b = pool.members
    pool.divide(Part(1, 2))
    assert (a.ceiling, a.limit, b.ceiling) == (2, 2, 9), "what an entry says is for all, the default for each"
    pool.update([deployment("a", 50), deployment("b", None)])
    assert a.ceiling == 25
    pool.divide(Part())
    assert a.ceiling == 50


async def test_a_pool_tells_when_work_comes_to_it(servers: Servers) -> None:
    came: list[str] = []
    one = Pool("m", [deployment("a")], 9, servers, SystemClock(), 0.01, begins=lambda: came.append("work"))
    for _ in range(2):
        with one.claimed("t", "x"), one.claimed("t", "y"):
            assert one.is_at_work
        assert not one.is_at_work
    assert came == ["work", "work"]
