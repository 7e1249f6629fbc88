"""Ending tasks for sure, and doing things until a stop comes."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_ASK_AGAIN_SECONDS = 0.5


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended, whatever they end with.

    `asyncio.wait_for` of Python 3.11 may swallow a cancellation (https://github.com/python/cpython/issues/86296), and
    libraries stand on it: a task that goes on after being cancelled is cancelled again.
    """
    tasks = tuple(tasks)
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_ASK_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` comes to, or None when `stop` is set first and `work` could be cancelled."""
    task, waiter = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end((task, waiter))
    return None if task.cancelled() else task.result()
