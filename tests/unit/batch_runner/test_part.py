"""The limits of a model's servers are for all runners together: those that are at work have equal parts."""

import asyncio
from contextlib import AsyncExitStack

from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.part import Part
from batchyard.batch_runner.presence import Presence
from batchyard.common.clock import SystemClock
from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings


@given(st.integers(1, 1000), st.integers(1, 20))
def test_parts_come_to_the_total_and_are_as_equal_as_can_be(total: int, of: int) -> None:
    parts = [Part(number, of).whole(total) for number in range(of)]
    assert sum(parts) == max(total, of)
    assert max(parts) - min(parts) <= 1
    assert Part(0, of).rate(total) == total / of
    assert Part(0, of).rate(None) is None


class Runner:
    """One that says what it is at, and counts how often the others' work has changed."""

    def __init__(self, messaging: Messaging, name: str) -> None:
        self.at_work: frozenset[str] = frozenset()
        self.changes = 0
        self.news = asyncio.Event()
        self.presence = Presence(messaging.connection, name, SystemClock(), lambda: self.at_work, self._changed)

    def begins(self, *pools: str) -> None:
        self.at_work = frozenset(pools)
        self.news.set()

    def _changed(self) -> None:
        self.changes += 1


async def test_runners_that_are_at_work_in_a_pool_have_a_part_each(settings: Settings) -> None:
    odd = 'a model of \u00fcmlauts, ["commas"]\n'
    stop = asyncio.Event()
    async with AsyncExitStack() as exits:
        runners = {
            name: Runner(await exits.enter_async_context(open_messaging(name, settings)), name) for name in "abc"
        }
        a, b, c = runners.values()
        for runner in runners.values():
            await runner.presence.listen()
        tasks = [asyncio.create_task(runner.presence.run(stop, runner.news)) for runner in runners.values()]

        async def parts_are(pool: str, **expected: Part) -> None:
            async with asyncio.timeout(10):
                while {name: runners[name].presence.part_in(pool) for name in expected} != expected:
                    await asyncio.sleep(0.01)

        await parts_are("llama", a=Part(), b=Part(), c=Part())
        b.begins("llama", odd)
        await parts_are("llama", a=Part(0, 2), b=Part(), c=Part(1, 2))
        await parts_are(odd, a=Part(0, 2), b=Part())
        a.begins("llama")
        await parts_are("llama", a=Part(0, 2), b=Part(1, 2), c=Part(2, 3))
        assert all(runner.changes for runner in (a, b, c))

        before = a.changes
        b.begins()
        await parts_are("llama", a=Part(), c=Part(1, 2))
        assert a.changes > before
        stop.set()
        await asyncio.gather(*tasks)
        await parts_are("llama", a=Part(), b=Part(), c=Part())
