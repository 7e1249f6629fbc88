"""One run of a batch on a server that runs it whole: send it, watch it, fetch what it came to.

A run may die between any two steps. What the record notes is enough for the next one to go on, and what had been done
and not been noted is found at the server: no second batch is made of one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.native.api import NotAnswering, Refused, Seen
from batchyard.batch_runner.native.collect import Collection, in_our_lines
from batchyard.batch_runner.native.documents import UpstreamBatch
from batchyard.batch_runner.native.notes import Notes
from batchyard.batch_runner.native.outcome import missing, write_parts
from batchyard.batch_runner.native.patience import GROWTH, Patience
from batchyard.batch_runner.native.start import Start
from batchyard.batch_runner.native.tools import NativeTools
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.pauses import Pause
from batchyard.batch_runner.segments import Kind
from batchyard.batch_runner.settings import MIB
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.batch_runner.stop import NOT_RUN, Stop
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.config import Deployment
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.contracts.usage import Usage
from batchyard.common.crash import crash_point
from batchyard.common.logs import get_logger
from batchyard.common.tasks import end

_LOST_AFTER = 5
_QUICK_POLL = 0.5
_log = get_logger(__name__)


class NativeRun:
    """One run of one batch, which is its own single shard; it offers what `ShardRun` offers.

    `on_checkpoint` is told how far the server is, whenever that has changed. While `pause` is on nothing is begun at
    the server. What has been begun runs on there: the Batch API has no pause, and what is cancelled never goes on.
    """

    def __init__(
        self,
        tools: NativeTools,
        record: BatchRecord,
        shard: ShardInput,
        find_deployment: Callable[[], Deployment | None],
        on_checkpoint: Callable[[ShardProgress], Awaitable[None]],
        pause: Pause | None = None,
    ) -> None:
        self._tools = tools
        self._batch = record.raw_id
        self._shard = shard
        self._find_deployment = find_deployment
        self._patience = Patience(record.raw_id, shard.model_names, tools.settings, tools.rng, on_checkpoint)
        self._notes = Notes(tools.store, record, partial(self.stop, Stop.SUPERSEDED))
        self._start = Start(tools, record.raw_id, shard, self._notes, self._patience, pause)
        self.shard = shard.shard
        self._seen: Seen | None = None
        self._is_lost = False
        self._is_collecting = False
        self._fetches = 0
        self._collection: Collection | None = None
        self._problems: tuple[BatchProblem, ...] = ()
        self._stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()

    def stop(self, why: Stop) -> None:
        """Leave the batch, or end it at the server."""
        if not self._stopped.done():
            self._stopped.set_result(why)

    @property
    def stopped(self) -> Stop | None:
        return self._stopped.result() if self._stopped.done() else None

    @property
    def waits_for(self) -> str | None:
        """The model whose server does not answer, if the batch waits for it."""
        return self.progress.waits_for

    async def recover(self) -> None:
        """Go on from what an earlier run has told; all else is found at the server."""
        before = await self._tools.store.progress(self._notes.record, self.shard)
        self._patience.progress = before or self._patience.progress

    async def execute(self) -> None:
        """Bring the batch to its end at the server and fetch its results, or what there is of them when stopped."""
        if not self._stopped.done():
            await self._drive_until_stopped()
        if self.stopped in NOT_RUN and self._collection is None and not self._problems:
            await self._wind_down()

    async def settle(self) -> ShardOutcome:
        """Write the parts in input order and say what the batch came to."""
        batch = self._seen.batch if self._seen and not self._is_lost else None
        segments = self._collection.segments if self._collection else []
        async with self._tools.fetches:
            parts = await write_parts(
                self._tools.store.objects, self._shard, segments, missing(self.stopped, self._problems, batch)
            )
        crash_point("parts.written")
        usage, by_kind = parts.counts.usage, parts.counts.by_kind
        self._compare(usage)
        return ShardOutcome(
            shard=self.shard,
            completed=by_kind[Kind.COMPLETED],
            failed=by_kind[Kind.FAILED],
            not_run=by_kind[Kind.NOT_RUN],
            usage_by_deployment={self._notes.known.deployment: usage} if usage != Usage() else {},
            output_key=parts.output_key,
            error_key=parts.error_key,
            problems=self._problems,
        )

    @property
    def progress(self) -> ShardProgress:
        return self._patience.progress

    async def _drive_until_stopped(self) -> None:
        driving = asyncio.create_task(self._drive())
        try:
            until: set[asyncio.Future[Any]] = {driving, self._stopped}
            await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
            if self._is_collecting and self.stopped in NOT_RUN:
                await asyncio.wait({driving}, timeout=self._tools.settings.native_cancel_grace)
            if driving.done():
                driving.result()
        finally:
            await end((driving,))

    async def _drive(self) -> None:
        deployment = await self._deployment()
        try:
            await self._start.upload(deployment)
            await self._run_there(deployment)
        except Refused as error:
            refusal = error.refusal
            self._problems = (BatchProblem(code=refusal.code, message=_refusal(error), param=refusal.param),)
            _log.warning("native.refused", batch=self._batch, reason=str(error))
            return
        await self._collect(deployment)
        crash_point("native.collected")

    async def _deployment(self) -> Deployment:
        """The server that was chosen; while the configuration does not have it, the batch waits."""
        while (deployment := self._find_deployment()) is None:
            await self._patience.tell_waiting(True)
            await asyncio.sleep(self._tools.settings.native_poll_first)
        return deployment

    async def _run_there(self, deployment: Deployment) -> None:
        """Have the server run the batch; one that has too much to do for now is asked again."""
        first, cap = self._tools.settings.native_poll_first, self._tools.settings.native_poll_cap
        while True:
            await self._start.create(deployment)
            await self._follow(deployment, first, cap)
            if self._seen is None or not self._seen.batch.is_turned_away:
                return
            batch_id, self._seen = self._seen.batch.id, None
            _log.info("native.turned_away", batch=self._batch, upstream=batch_id)
            await self._patience.pause(cap, None)
            await self._notes.amend(partial(NativeNote.without_batch, batch_id=batch_id))

    async def _follow(self, deployment: Deployment, first: float, cap: float) -> None:
        """Ask until the server's batch is over, or the server has forgotten it."""
        batch_id = self._notes.known.batch_id
        assert batch_id is not None
        delay, missed, status = first, 0, ""
        while missed < _LOST_AFTER:
            try:
                seen = await self._patience.ask(lambda: self._tools.api.batch(deployment, batch_id))
            except Refused as error:
                missed += 1
                _log.warning("native.not_found", batch=self._batch, upstream=batch_id, reason=str(error))
                retry_after = None
            else:
                missed, self._seen = 0, seen
                if seen.batch.is_over:
                    return
                await self._patience.tell(seen, self._shard.range.requests)
                delay = first if seen.batch.status != status else delay
                status, retry_after = seen.batch.status, seen.retry_after
            await self._patience.pause(delay, retry_after)
            delay = min(delay * GROWTH, cap)
        self._is_lost = True

    async def _collect(self, deployment: Deployment, *, patiently: bool = True) -> None:
        """Copy what the server has answered. There is nothing of a batch whose input it did not like."""
        if self._is_lost or self._seen is None:
            return
        batch = self._seen.batch
        if batch.status == "failed" and not (batch.output_file_id or batch.error_file_id):
            if self.stopped not in NOT_RUN:
                generic = BatchProblem(code="upstream_failed", message="The server's batch failed; it gave no reason.")
                problems = batch.problems or (generic,)
                self._problems = await in_our_lines(self._tools.store.objects, self._shard, problems)
            return
        self._is_collecting = True
        if patiently:
            self._collection = await self._patience.ask(lambda: self._fetch(deployment, batch))
        else:
            self._collection = await self._fetch(deployment, batch)

    async def _fetch(self, deployment: Deployment, batch: UpstreamBatch) -> Collection:
        settings, shard = self._tools.settings, self._shard
        self._fetches += 1
        collection = Collection(
            self._tools.store.objects,
            f"{shard.prefix}collected-{shard.attempt}-{self._fetches:06d}",
            shard.batch_hex,
            deployment.id,
            memory_bytes=settings.shard_memory_bytes,
            line_bytes=settings.max_response_bytes + MIB,
        )
        async with self._tools.fetches:
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                try:
                    async with aclosing(self._tools.api.content(deployment, file_id)) as chunks:
                        await collection.take(chunks)
                except Refused as error:
                    if self._fetches < _LOST_AFTER:
                        raise NotAnswering(str(error)) from error
                    _log.error("native.results_lost", batch=self._batch, file=file_id, reason=str(error))
            await collection.store()
        if collection.foreign:
            _log.warning("native.foreign_lines", batch=self._batch, lines=collection.foreign)
        return collection

    async def _wind_down(self) -> None:
        """Cancel the server's batch, and give it a grace to hand out what it had done."""
        deployment, note = self._find_deployment(), self._notes.known
        if deployment is None or (note.file_id is None and not await self._notes.has_begun()):
            return
        try:
            async with asyncio.timeout(self._tools.settings.native_cancel_grace):
                if not await self._cancel(deployment):
                    return
                await self._follow(deployment, _QUICK_POLL, _QUICK_POLL)
        except TimeoutError:
            _log.warning("native.cancel_unfinished", batch=self._batch, upstream=self._notes.known.batch_id)
            return
        except Refused as error:
            _log.warning("native.cancel_refused", batch=self._batch, reason=str(error))
            return
        try:
            await self._collect(deployment, patiently=False)
        except NotAnswering as error:
            _log.warning("native.results_lost", batch=self._batch, reason=str(error))

    async def _cancel(self, deployment: Deployment) -> bool:
        """Stop the server's batch, if there is one."""
        if self._notes.known.batch_id is None:
            found = await self._patience.ask(lambda: self._start.find(deployment))
            if found is None:
                return False
            await self._notes.amend(lambda note: note.with_batch(found.id))
        batch_id = self._notes.known.batch_id
        assert batch_id is not None
        await self._patience.ask(lambda: self._tools.api.cancel(deployment, batch_id))
        return True

    def _compare(self, usage: Usage) -> None:
        """The answers' own usage is what counts; that the server's account differs is worth a word."""
        theirs = self._seen.used.usage().total_tokens if self._seen and self._collection else 0
        if theirs and theirs != usage.total_tokens:
            _log.warning("native.usage_differs", batch=self._batch, answers=usage.total_tokens, upstream=theirs)


def _refusal(error: Refused) -> str:
    return f"The model server did not take the batch: {error.refusal.message}"
