"""Long work that short commands ask for again and again, until it is done."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from batchyard.common.tasks import end

T = TypeVar("T")

# A result that nobody came back for is forgotten.
_KEPT_SECONDS = 60.0


class Joins(Generic[T]):
    """Jobs by key: whoever asks for a job that is under way waits for the same one.

    Args:
        at_once: How many jobs run at a time; the others wait.
    """

    def __init__(self, at_once: int) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._jobs: dict[Hashable, asyncio.Task[T]] = {}

    async def result(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], wait: float) -> T | None:
        """What `work` returns, or raises; None if that is not known after `wait` seconds."""
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = asyncio.create_task(self._run(work))
            job.add_done_callback(lambda done: self._forget_later(key, done))
        await asyncio.wait({job}, timeout=wait)
        if not job.done() or job.cancelled():
            return None
        self._forget(key, job)
        return job.result()

    async def close(self) -> None:
        """Cancel what is under way, and wait for its end."""
        await end(self._jobs.values())

    async def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._slots:
            return await work()

    def _forget_later(self, key: Hashable, job: asyncio.Task[T]) -> None:
        if not job.cancelled():
            job.exception()  # it may be that nobody comes back for it
        asyncio.get_running_loop().call_later(_KEPT_SECONDS, self._forget, key, job)

    def _forget(self, key: Hashable, job: asyncio.Task[T]) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]
