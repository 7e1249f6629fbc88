"""Waiting for a server, and saying so: an outage costs a batch nothing but time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batchyard.batch_runner.native.api import NotAnswering, Seen
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger

T = TypeVar("T")

GROWTH = 1.5
_log = get_logger(__name__)


class Patience:
    """Asks until there is an answer, and tells `on_checkpoint` how far the server is and whether it is away.

    Attributes:
        progress: What is known, whether or not it could be told.
    """

    def __init__(
        self,
        batch: str,
        model: str,
        settings: RunnerSettings,
        rng: random.Random,
        on_checkpoint: Callable[[ShardProgress], Awaitable[None]],
    ) -> None:
        self._batch = batch
        self._model = model
        self._settings = settings
        self._rng = rng
        self._on_checkpoint = on_checkpoint
        self._told: ShardProgress | None = None
        self.progress = ShardProgress()

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """What the server answers, once it does. What else `question` raises is raised."""
        delay = self._settings.native_poll_first
        while True:
            try:
                answer = await question()
            except NotAnswering as error:
                _log.info("native.not_answering", batch=self._batch, reason=str(error))
                await self.tell_waiting(True)
                await self.pause(delay, error.retry_after)
                delay = min(delay * GROWTH, self._settings.native_poll_cap)
            else:
                await self.tell_waiting(False)
                return answer

    async def pause(self, delay: float, retry_after: float | None) -> None:
        """Leave the server alone for about `delay` seconds, or for as long as it asked for."""
        await asyncio.sleep(max(delay * self._rng.uniform(0.8, 1.0), retry_after or 0.0))

    async def tell(self, seen: Seen, requests: int) -> None:
        """Say how far the server is with so many requests. Counts never fall: clients have seen them."""
        told, batch = self.progress, seen.batch
        completed = max(told.completed, min(batch.completed, requests))
        failed = max(told.failed, min(batch.failed, requests - completed))
        usage = seen.used.usage()
        await self._report(told.model_copy(update={"completed": completed, "failed": failed, "usage": usage}))

    async def tell_waiting(self, is_waiting: bool) -> None:
        await self._report(self.progress.model_copy(update={"waits_for": self._model if is_waiting else None}))

    async def _report(self, progress: ShardProgress) -> None:
        self.progress = progress
        if progress == self._told:
            return
        try:
            await self._on_checkpoint(progress)
            self._told = progress
        except ServiceUnavailable as error:
            _log.warning("progress.not_told", batch=self._batch, reason=str(error))
