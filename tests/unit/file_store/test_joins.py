"""Long jobs are shared by those who ask for them, and their results are not kept for longer than needed."""

import asyncio
import gc

import pytest

from batchyard.common.errors import InvalidRequest
from batchyard.file_store.joins import Joins

LONG = 10.0


class _Work:
    """Ends when told."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        self.at_once += 1
        try:
            await self.go.wait()
        finally:
            self.at_once -= 1
        return self.begun


async def test_who_asks_meanwhile_gets_the_same_result() -> None:
    joins, work = Joins[int](2), _Work()
    assert await joins.result("a", work, 0) is None
    waiting = [asyncio.create_task(joins.result("a", work, LONG)) for _ in range(3)]
    work.go.set()
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert await joins.result("a", work, LONG) == 2


async def test_a_result_is_there_for_who_comes_back() -> None:
    joins, work = Joins[int](2), _Work()
    assert await joins.result("a", work, 0) is None
    work.go.set()
    while work.at_once or not work.begun:
        await asyncio.sleep(0)
    assert await joins.result("a", work, 0) == 1


async def test_only_so_many_run_at_once() -> None:
    joins, work = Joins[int](2), _Work()
    waiting = [asyncio.create_task(joins.result(key, work, LONG)) for key in range(5)]
    while work.begun < 2:
        await asyncio.sleep(0)
    assert work.at_once == 2
    work.go.set()
    await asyncio.gather(*waiting)
    assert work.begun == 5


async def test_a_failure_is_told_once_and_then_tried_again() -> None:
    async def fail() -> int:
        raise InvalidRequest("no")

    joins, work = Joins[int](2), _Work()
    with pytest.raises(InvalidRequest):
        await joins.result("a", fail, LONG)
    work.go.set()
    assert await joins.result("a", work, LONG) == 1


async def test_a_failure_that_nobody_comes_back_for_disturbs_nobody() -> None:
    go = asyncio.Event()

    async def fail() -> int:
        await go.wait()
        raise InvalidRequest("no")

    disturbed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: disturbed.append(context))
    joins = Joins[int](2)
    assert await joins.result("a", fail, 0) is None
    go.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert joins._jobs["a"].done()
    await joins.close()
    del joins
    gc.collect()
    assert disturbed == []


async def test_what_is_under_way_ends_with_the_service() -> None:
    joins, work = Joins[int](2), _Work()
    waiting = asyncio.create_task(joins.result("a", work, LONG))
    while not work.begun:
        await asyncio.sleep(0)
    await joins.close()
    assert await waiting is None
    assert work.at_once == 0
