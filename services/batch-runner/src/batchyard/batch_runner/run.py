"""Running one shard: send what has no durable result, checkpoint, and hand in the outcome."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from batchyard.batch_runner.attempt import Attempts, LineJob
from batchyard.batch_runner.crew import Crew
from batchyard.batch_runner.fairness import Claim
from batchyard.batch_runner.journal import Journal
from batchyard.batch_runner.line_queue import LineQueue
from batchyard.batch_runner.lines import LineError, unanswered_line
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.pauses import Pause
from batchyard.batch_runner.pool import Pool, PoolRetired
from batchyard.batch_runner.segments import Kind, Result
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard_input import ShardInput, numbered_requests
from batchyard.batch_runner.stop import NOT_RUN, Stop, not_run
from batchyard.batch_runner.tally import ShardProgress, Tally
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStore
from batchyard.common.result_lines import request_id
from batchyard.common.tasks import end

_log = get_logger(__name__)


class ShardRun:
    """One run of one shard.

    Args:
        on_checkpoint: Told what is durable, about every second.
        claim: What its lines wait under for their turns.
        memory_bytes: Says how much of the results may be kept, when that is less than the setting.
        pause: Says when nothing new is to be sent.
    """

    def __init__(
        self,
        shard: ShardInput,
        store: ObjectStore,
        settings: RunnerSettings,
        on_checkpoint: Callable[[ShardProgress], Awaitable[None]],
        claim: Claim | None = None,
        memory_bytes: Callable[[], int] | None = None,
        pause: Pause | None = None,
    ) -> None:
        self._pause = pause
        self._shard = shard
        self._store = store
        self._settings = settings
        self._claim = claim
        memory_bytes = memory_bytes or (lambda: settings.shard_memory_bytes)
        self._journal = Journal(shard, store, settings, on_checkpoint, memory_bytes)
        self._tally = self._journal.tally
        self.shard = shard.shard
        self.pool = shard.pool
        self.model_names = shard.model_names
        self.waits_for: str | None = None  # the model whose servers are down, as was told last
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why: Stop | None = None
        self._hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self, why: Stop) -> None:
        """Send nothing more. What is in flight gets a grace, the rest is left. Any other reason goes before WITHDRAWN,
        which lets all end that is in flight."""
        if self._why is None:
            self._why = why
            self._stopped.set_result(None)
        elif self._why is Stop.WITHDRAWN and why is not Stop.WITHDRAWN:
            self._why = why
            self._hurried.set_result(None)

    @property
    def stopped(self) -> Stop | None:
        return self._why

    def hurry(self, is_late: bool) -> bool:
        """Whether the batch's lines go ahead of others from now on; whether that is news."""
        return self._claim is not None and self._claim.share.hurry(is_late)

    @property
    def leaving(self) -> asyncio.Future[None]:
        """Done once the run has been stopped."""
        return self._stopped

    @property
    def answered(self) -> int:
        """Lines that have a result."""
        return self._tally.lines

    @property
    def is_complete(self) -> bool:
        """Whether every line has a result."""
        return self._tally.lines == self._shard.range.requests

    async def execute(self, attempts: Attempts, pool: Pool) -> None:
        """Send every line that has no durable result, until all have one or `stop` is called."""
        jobs = [job async for job in self._jobs() if job.line not in self._tally]
        if not jobs or self.stopped:
            return
        homes = [member.deployment for member in pool.members if not member.down]
        if not self._settings.prefix_affinity:
            homes = []
        queue = LineQueue(jobs, homes, arrange=self._settings.arrange_prefixes)
        crew = Crew(partial(self._work, queue, attempts, pool))
        crew.begin(len(jobs))
        flusher = asyncio.create_task(self._journal.flush_regularly())
        try:
            await self._supervise(crew, flusher)
        finally:
            await end((*crew.tasks, flusher))

    async def execute_singly(
        self, attempts: Attempts, pool: Pool, before_line: Callable[[ShardProgress, int], Awaitable[None]]
    ) -> None:
        """Send one line at a time, and say each time which, so that a line that kills its runner is known by name."""
        async for job in self._jobs():
            if self.stopped:
                return
            if job.line not in self._tally:
                await before_line(self._tally.progress(), job.line)
                crew = Crew(partial(self._work, LineQueue([job]), attempts, pool))
                crew.begin(1)
                try:
                    await asyncio.wait({crew.finished, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await end(crew.tasks)
                await self.checkpoint()

    async def give_up(self, line: int | None, starts: int) -> None:
        """Fail one line that has no result, or all of them, because runners die of them."""
        async for job in self._jobs():
            if job.line not in self._tally and line in (None, job.line):
                text = unanswered_line(
                    job.identity,
                    bytes(job.request.custom_id),
                    LineError(
                        "runner_lost",
                        f"Given up: {starts} runners in a row were lost while they worked on this request.",
                    ),
                )
                self._journal.add(Result(job.line, Kind.FAILED, Tally.NO_TOKENS, None, text), job.model)
        await self.checkpoint()

    @property
    def progress(self) -> ShardProgress:
        return self._tally.progress()

    async def recover(self) -> None:
        """Take over the results that earlier runs of the shard made durable."""
        await self._journal.recover()

    async def checkpoint(self) -> None:
        """Make every result so far durable."""
        await self._journal.checkpoint()

    async def settle(self) -> ShardOutcome:
        """Write the parts and say what the shard came to. Lines without a result become errors that say why."""
        if self.stopped in NOT_RUN:
            await self._fill(self.stopped)
        return await self._journal.write_parts()

    async def _supervise(self, crew: Crew, flusher: asyncio.Task[None]) -> None:
        """Wait until the crew is done, or until it has been stopped and its grace is over."""
        finished = crew.finished
        until: set[asyncio.Future[Any]] = {finished, flusher, self._stopped}
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
        if flusher.done():
            flusher.result()  # it ends by an error alone
        if self._why is Stop.WITHDRAWN:
            await asyncio.wait({finished, self._hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not finished.done() and (why := self.stopped):
            await asyncio.wait({finished}, timeout=self._grace(why))
        if finished.done():
            finished.result()

    def _grace(self, why: Stop) -> float:
        if why is Stop.SUPERSEDED:
            return 0.0  # nobody waits for the answers
        return self._settings.shutdown_grace if why is Stop.SHUTDOWN else self._settings.cancel_grace

    async def _work(self, queue: LineQueue, attempts: Attempts, pool: Pool, crew: Crew) -> None:
        while True:
            await self._journal.room.wait()
            if self._stopped.done() or not queue.reserve():
                return
            crew.waiting += 1
            try:
                place = await self._place(pool)
            except PoolRetired:
                return
            finally:
                crew.waiting -= 1
            if queue.has_more:
                crew.grow()
            job = queue.take(place.deployment.id)
            try:
                result = await attempts.run(job, pool, self._stopped.done, place)
            except Exception as error:  # noqa: BLE001  one line must not take the others of its shard with it
                _log.error("line.failed", line=job.line, batch=self._shard.batch_hex, exc_info=error)
                result = failed_line(job, error)
            if result is None:
                return
            pool.results[result.kind] += 1
            self._journal.add(result, job.model)

    async def _place(self, pool: Pool) -> Member:
        """A place on a deployment, once there is one and nothing new is held back. Raises PoolRetired."""
        while True:
            await self._unpaused()
            place = await pool.acquire(claim=self._claim)
            if self._pause is None or not self._pause.is_on or self._stopped.done():
                return place
            pool.release(place, self._claim)

    async def _unpaused(self) -> None:
        if self._pause is None or not self._pause.is_on:
            return
        over = asyncio.create_task(self._pause.over())
        try:
            until: set[asyncio.Future[Any]] = {over, self._stopped}
            await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end((over,))

    async def _jobs(self) -> AsyncIterator[LineJob]:
        shard = self._shard
        async for line, request in numbered_requests(self._store, shard.object_key, shard.range, shard.models):
            yield LineJob(
                line=line,
                identity=request_id(shard.batch_hex, line),
                request=request,
                path=shard.endpoint,
                model=shard.model_of(request),
                claim=self._claim,
            )

    async def _fill(self, why: Stop) -> None:
        async for job in self._jobs():
            if job.line not in self._tally:
                result = not_run(job.line, job.identity, bytes(job.request.custom_id), why)
                self._journal.add(result, job.model)


def failed_line(job: LineJob, error: Exception) -> Result:
    """The result of a line that Batchyard itself could not deal with."""
    message = f"Batchyard could not process this request ({type(error).__name__}); its operator's log says more."
    text = unanswered_line(job.identity, bytes(job.request.custom_id), LineError("internal_error", message))
    return Result(job.line, Kind.FAILED, Tally.NO_TOKENS, None, text)
