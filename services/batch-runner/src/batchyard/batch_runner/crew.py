"""The tasks that work on the lines of one shard: as many as there are places for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

_READY = 8  # who wait for a place, so that places that come free at once are given to whose turn it is


class Crew:
    """Tasks that all do the same work, each of them for a line at a time.

    It grows with the places that there are, and not with the lines: a task for each line would cost as much as sending
    it, and a number fixed at the beginning would hold back a limit that grows meanwhile.

    Attributes:
        finished: Done once all have ended; with the error of one that has failed, which leaves the others at work.
        waiting: How many wait for a place, by their own account.
    """

    def __init__(self, work: Callable[["Crew"], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self.tasks: set[asyncio.Task[None]] = set()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting = 0

    def begin(self, lines: int) -> None:
        """Work on so many lines."""
        for _ in range(min(lines, _READY)):
            self._add()

    def grow(self) -> None:
        """Let another one begin if few wait. Whoever gets a place says this while there are lines that nobody has."""
        if self.waiting < _READY:
            self._add()

    def _add(self) -> None:
        task = asyncio.create_task(self._work(self))
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if self.finished.done():
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            self.finished.set_exception(error)
        elif not self.tasks:
            self.finished.set_result(None)
