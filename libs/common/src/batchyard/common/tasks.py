"""Ending tasks for sure."""

import asyncio
from collections.abc import Iterable
from typing import Any

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
