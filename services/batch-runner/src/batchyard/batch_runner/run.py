"""Running one shard: send what has no durable result, checkpoint, and hand in the outcome."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import msgspec

from batchyard.batch_runner.attempt import Attempts, LineJob
from batchyard.batch_runner.crew import Crew
from batchyard.batch_runner.fairness import Claim
from batchyard.batch_runner.line_queue import LineQueue
from batchyard.batch_runner.lines import BLANK, LineError, RequestLine, named_model, read_request, unanswered_line
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.pauses import Pause
from batchyard.batch_runner.pool import Member, Pool, PoolRetired
from batchyard.batch_runner.segments import (
    ERROR_KINDS,
    OUTPUT_KINDS,
    Kind,
    Result,
    compacted,
    encode_result,
    merged,
    read_segment,
    texts,
)
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange
from batchyard.batch_runner.tally import ShardProgress, Tally
from batchyard.common.crash import crash_point
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStore, ObjectStoreUnavailable, read_lines
from batchyard.common.result_lines import request_id
from batchyard.common.tasks import end

_log = get_logger(__name__)


class Stop(Enum):
    """Why a shard is left before all of its lines have a result."""

    CANCELLED = "batch_cancelled"
    EXPIRED = "batch_expired"
    SHUTDOWN = "shutdown"
    SUPERSEDED = "superseded"  # another runner has handed it in
    WITHDRAWN = "withdrawn"  # its model is no longer configured here


NOT_RUN = {
    Stop.CANCELLED: "This request was not executed: the batch was cancelled.",
    Stop.EXPIRED: "This request could not be executed before the completion window expired.",
}


@dataclass(frozen=True, slots=True)
class ShardInput:
    """What there is to run.

    Attributes:
        prefix: Where the shard's segments and parts go.
        attempt: A name for this run of the shard, so that two runs at once never write the same object.
        batch_hex: The batch's UUID, part of every result's ID.
        model: The model of every line, or None for a line's own.
        pool: Who serves them.
        models: In a batch of several models, those whose lines are this shard's; None when all lines of its range are.
        names: What a model is shown as that lines call by another name.
    """

    object_key: str
    range: ShardRange
    shard: int
    prefix: str
    attempt: str
    batch_hex: str
    endpoint: str
    model: str | None
    pool: str
    models: frozenset[str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_names(self) -> str:
        """The model as clients know it; the models, where a pool serves several that the lines name."""
        if self.model is not None:
            return self.model
        return ", ".join(sorted({self.names.get(name, name) for name in self.models or ()}))

    def model_of(self, request: RequestLine) -> str:
        """What the model of a line is shown as."""
        if self.model is not None:
            return self.model
        named = named_model(request)
        return self.names.get(named, named)


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
        self._on_checkpoint = on_checkpoint
        self._claim = claim
        self._memory_bytes = memory_bytes or (lambda: self._settings.shard_memory_bytes)
        self.shard = shard.shard
        self.pool = shard.pool
        self.model_names = shard.model_names
        self.waits_for: str | None = None  # the model whose servers are down, as was told last
        self._tally = Tally()
        self._stored: list[str] = []  # segments whose results are not in memory
        self._kept: list[Result] = []  # results in segments that are in memory too
        self._kept_segments: list[str] = []
        self._kept_bytes = 0
        self._fresh: list[Result] = []  # results in no segment yet
        self._fresh_bytes = 0
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
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
        flusher = asyncio.create_task(self._flush_regularly())
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
                self._gather(Result(job.line, Kind.FAILED, Tally.NO_TOKENS, None, text), job)
        await self.checkpoint()

    @property
    def progress(self) -> ShardProgress:
        return self._tally.progress()

    async def recover(self) -> None:
        """Take over the results that earlier runs of the shard made durable."""
        async for info in self._store.list(f"{self._shard.prefix}segment-"):
            async for result in read_segment(self._store, info.key):
                self._tally.add(result)
            self._stored.append(info.key)

    async def checkpoint(self) -> None:
        """Make every result so far durable."""
        if not self._fresh:
            return
        results, size, progress = self._fresh, self._fresh_bytes, self._tally.progress()
        self._fresh, self._fresh_bytes = [], 0
        self._full.clear()
        self._room.set()
        results.sort(key=lambda result: result.line)
        number = len(self._stored) + len(self._kept_segments)
        key = f"{self._shard.prefix}segment-{self._shard.attempt}-{number:06d}"
        try:
            await self._store.put(key, _encoded(results))
        except BaseException:
            self._fresh += results
            self._fresh_bytes += size
            raise
        crash_point("segment.stored")
        self._keep(key, results, size)
        try:
            await self._on_checkpoint(progress)
        except ServiceUnavailable as error:
            _log.warning("progress.not_told", batch=self._shard.batch_hex, reason=str(error))

    async def settle(self) -> ShardOutcome:
        """Write the parts and say what the shard came to. Lines without a result become errors that say why."""
        if self.stopped in NOT_RUN:
            await self._fill(self.stopped)
        self._stored = await compacted(
            self._store, self._stored, f"{self._shard.prefix}segment-{self._shard.attempt}-merged"
        )
        memory = sorted((*self._kept, *self._fresh), key=lambda result: result.line)
        tally = self._tally
        output_key = error_key = None
        if tally.completed:
            output_key = f"{self._shard.prefix}output-{self._shard.attempt}"
            await self._store.put(output_key, texts(merged(self._store, self._stored, memory), OUTPUT_KINDS))
        if tally.failed or tally.not_run:
            error_key = f"{self._shard.prefix}error-{self._shard.attempt}"
            await self._store.put(error_key, texts(merged(self._store, self._stored, memory), ERROR_KINDS))
        crash_point("parts.written")
        return ShardOutcome(
            shard=self._shard.shard,
            completed=tally.completed,
            failed=tally.failed,
            not_run=tally.not_run,
            usage_by_deployment=tally.usage_by_deployment(),
            work=tally.work(),
            output_key=output_key,
            error_key=error_key,
        )

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
            await self._room.wait()
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
            self._gather(result, job)

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

    def _gather(self, result: Result, job: LineJob) -> None:
        if self._shard.model is None:
            result = msgspec.structs.replace(result, model=job.model)
        self._tally.add(result)
        self._fresh.append(result)
        self._fresh_bytes += len(result.text)
        memory = self._memory_bytes()
        if self._fresh_bytes >= min(self._settings.flush_bytes, memory):
            self._full.set()
        if self._fresh_bytes >= memory:
            self._room.clear()  # the store does not keep up: nothing more is sent until it does

    async def _flush_regularly(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.flush_interval):
                    await self._full.wait()
            except TimeoutError:
                pass
            try:
                await self.checkpoint()
            except ObjectStoreUnavailable as error:
                # What was answered is kept until the store is back: nothing is sent again because of it.
                _log.warning("checkpoint.postponed", batch=self._shard.batch_hex, reason=str(error))
                await asyncio.sleep(self._settings.flush_interval)

    def _keep(self, key: str, results: list[Result], size: int) -> None:
        """Keep results in memory as long as they are few: then the parts need no reading back."""
        self._kept += results
        self._kept_segments.append(key)
        self._kept_bytes += size
        if self._kept_bytes > self._memory_bytes():
            self._stored += self._kept_segments
            self._kept, self._kept_segments, self._kept_bytes = [], [], 0

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
                self._gather(not_run(job.line, job.identity, bytes(job.request.custom_id), why), job)


def failed_line(job: LineJob, error: Exception) -> Result:
    """The result of a line that Batchyard itself could not deal with."""
    message = f"Batchyard could not process this request ({type(error).__name__}); its operator's log says more."
    text = unanswered_line(job.identity, bytes(job.request.custom_id), LineError("internal_error", message))
    return Result(job.line, Kind.FAILED, Tally.NO_TOKENS, None, text)


def not_run(line: int, identity: str, custom_id: bytes, why: Stop) -> Result:
    """The result of a line that was never answered."""
    text = unanswered_line(identity, custom_id, LineError(why.value, NOT_RUN[why]))
    return Result(line, Kind.NOT_RUN, Tally.NO_TOKENS, None, text)


async def numbered_requests(
    store: ObjectStore, key: str, where: ShardRange, models: frozenset[str] | None = None
) -> AsyncIterator[tuple[int, RequestLine]]:
    """The requests in a range of an input file, each with its line number; blank lines only count.

    With `models`, those alone that name one of them.
    """
    number = where.first_line
    async for text in read_lines(store, key, start=where.offset, length=where.length):
        if text.strip(BLANK):
            request = read_request(text)
            if models is None or named_model(request) in models:
                yield number, request
        number += 1


async def _encoded(results: list[Result]) -> AsyncIterator[bytes]:
    for result in results:
        yield encode_result(result)
