"""Blocking calls on a bounded pool of threads, with a cancellation that leaves nothing running."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class BlockingCalls:
    """A pool of threads for one store, so that its slowness is never another's.

    A call that is cancelled while it waits for a thread is not made. One that already runs is waited for
    (blocking calls have timeouts of their own), so that whatever cleans up after it comes after it.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a blocking call."""
        return await self._outcome(self._pool.submit(partial(call, *args, **kwargs)))

    async def acquire(self, call: Callable[[], T], release: Callable[[T], object]) -> T:
        """Make a blocking call whose result must be released: if we are cancelled meanwhile, it is, here."""
        future = self._pool.submit(call)
        try:
            return await self._outcome(future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                await self.finish(release, future.result())
            raise

    async def finish(self, call: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Make a call that cleans up: it is made to its end even if we are cancelled meanwhile."""
        await self._outcome(self._pool.submit(partial(call, *args, **kwargs)), droppable=False)

    async def close(self) -> None:
        """Let the running calls end, and free the threads."""
        await asyncio.to_thread(self._pool.shutdown)

    async def _outcome(self, future: Future[T], *, droppable: bool = True) -> T:
        done = asyncio.wrap_future(future)
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            if not (droppable and future.cancel()):
                await _settled(done)
            raise
        return done.result()


async def _settled(done: asyncio.Future[T]) -> None:
    """Wait for a future to end, however often we are cancelled: the caller raises the cancellation again."""
    while not done.done():
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            continue
    if not done.cancelled():
        done.exception()  # seen: asyncio would otherwise log that nobody looked at it


async def in_windows(
    call: Callable[[T], Awaitable[R]], items: Iterable[T], width: int
) -> AsyncGenerator[list[R], None]:
    """Call for every item, at most `width` at a time, and yield the results in order, a window at a time."""
    iterator = iter(items)
    while window := list(islice(iterator, width)):
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_awaited(call(item))) for item in window]
        yield [task.result() for task in tasks]


async def _awaited(value: Awaitable[R]) -> R:
    return await value


@contextmanager
def single_error() -> Iterator[None]:
    """Raise the error that ended a task group as itself, not as a group of one."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
