"""Where batch-runner keeps its state: records, shard outcomes and progress in KV, the queues, and its objects."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from batchyard.batch_runner.batch import BatchRecord, record_key, shard_key
from batchyard.batch_runner.batch_views import to_event
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.shard import ShardTable, decode_table, encode_table, plan_key
from batchyard.batch_runner.tally import ShardProgress
from batchyard.batch_runner.tasks import ShardTask, StepTask, encode_task
from batchyard.batch_runner.transitions import announced
from batchyard.batch_runner.unanswered import unanswered_lines
from batchyard.common import subjects
from batchyard.common.bounded import remember
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.events import BatchProgress
from batchyard.common.crash import crash_point
from batchyard.common.errors import NotFound, ServiceUnavailable
from batchyard.common.ids import decode_id, is_raw_id
from batchyard.common.messaging.publishing import publish
from batchyard.common.messaging.records import Entry, Records, RevisionConflict
from batchyard.common.messaging.topology import (
    BATCHES_BUCKET,
    EVENTS,
    PROGRESS_BUCKET,
    SHARDS_BUCKET,
    STEPS,
    STEPS_CONSUMER,
    WORK,
)
from batchyard.common.object_keys import BATCHES_PREFIX, batch_prefix, parse_batch_key
from batchyard.common.objects import ObjectStore, read

_MAX_TABLE_BYTES = 64 * 1024 * 1024
_TABLES_REMEMBERED = 32
_DELETE_BATCH = 500


class BatchStore:
    """All durable state of batches, one method per effect.

    Every method raises ServiceUnavailable or ObjectStoreUnavailable when what it stands on does not answer.
    """

    def __init__(self, connection: Client, js: JetStreamContext, objects: ObjectStore) -> None:
        self._connection = connection
        self._js = js
        self.objects = objects
        self.records = Records(js, BATCHES_BUCKET, BatchRecord)
        self._outcomes = Records(js, SHARDS_BUCKET, ShardOutcome)
        self._progress = Records(js, PROGRESS_BUCKET, ShardProgress)
        self._tables: dict[str, ShardTable] = {}

    async def get(self, tenant: str, raw_id: str) -> BatchRecord | None:
        entry = await self.records.get(record_key(tenant, raw_id))
        return entry.value if entry else None

    async def find(self, tenant: str, batch_id: str) -> BatchRecord:
        """The record of a batch by its public ID. Raises NotFound."""
        raw = decode_id(batch_id).raw
        record = await self.get(tenant, raw) if is_raw_id("batch", raw) else None
        if record is None:
            raise NotFound(f"No batch found with id '{batch_id}'.", param="id")
        return record

    async def change(self, record: BatchRecord, change: Callable[[BatchRecord], BatchRecord]) -> BatchRecord | None:
        """Apply a transition to the record as it is now; None when it is gone."""
        entry: Entry[BatchRecord] | None = await self.records.change(record.key, change)
        return entry.value if entry else None

    async def outcome(self, record: BatchRecord, shard: int) -> ShardOutcome | None:
        entry = await self._outcomes.get(shard_key(record.tenant, record.raw_id, shard))
        return entry.value if entry else None

    async def hand_in(self, record: BatchRecord, outcome: ShardOutcome) -> bool:
        """Record a shard's outcome unless it has one: the first writer wins. Whether it was this one."""
        key = shard_key(record.tenant, record.raw_id, outcome.shard)
        try:
            await self._outcomes.create(key, outcome)
        except RevisionConflict:
            return False
        return True

    async def forget_shards(self, record: BatchRecord) -> None:
        """Remove every outcome, progress and queued shard of the batch."""
        await self._outcomes.erase(record.key)
        await self._progress.erase(record.key)
        try:
            await self._js.purge_stream(WORK, subject=subjects.work_of_batch(record.raw_id))
        except (Error, OSError) as error:
            raise ServiceUnavailable(f"The stream {WORK} did not answer.") from error

    async def tidy_up(self, record: BatchRecord) -> None:
        """Remove what was written for a batch after it had ended and been swept.

        Not where there is no record, as none is removed so soon: a NATS server that stood still and is back believes
        for a moment that it still leads, and does not know what came meanwhile.
        """
        now = await self.get(record.tenant, record.raw_id)
        if now is not None and now.swept:
            await self.remove_objects(record)
            await self.forget_shards(record)

    async def progress(self, record: BatchRecord, shard: int) -> ShardProgress | None:
        entry = await self._progress.get(shard_key(record.tenant, record.raw_id, shard))
        return entry.value if entry else None

    async def report_progress(self, record: BatchRecord, shard: int, progress: ShardProgress) -> None:
        await self._progress.put(shard_key(record.tenant, record.raw_id, shard), progress)

    async def broadcast(self, record: BatchRecord) -> None:
        """Tell every runner to look at the batch again: its status says that its shards are to be left."""
        await self._connection.publish(
            subjects.control(record.raw_id), encode_task(StepTask(record.tenant, record.raw_id))
        )

    async def pin_input(self, record: BatchRecord) -> str:
        """Copy the input to where only the batch can delete it, of a retry's the lines that it is for; the copy's key.

        Raises ObjectNotFound.
        """
        key = f"{batch_prefix(record.tenant, record.raw_id)}input"
        if record.retried_key is None:
            await self.objects.concatenate(key, [record.input_key])
        else:
            await self.objects.put(key, unanswered_lines(self.objects, record.input_key, record.retried_key))
        return key

    async def amend_progress(
        self, record: BatchRecord, shard: int, change: Callable[[ShardProgress], ShardProgress]
    ) -> None:
        """Change what is told of a shard's progress, if anything is: a batch that is over gets none anew."""
        await self._progress.change(shard_key(record.tenant, record.raw_id, shard), change)

    async def write_table(self, record: BatchRecord, attempt: str, table: ShardTable) -> str:
        """Store the shard table of one attempt to plan; its key."""
        key = plan_key(record.tenant, record.raw_id, attempt)
        await self.objects.put(key, encode_table(table))
        return key

    async def table(self, record: BatchRecord) -> ShardTable:
        """The shard table that the record names. Raises LookupError when it names none."""
        if record.plan_key is None:
            raise LookupError(f"{record.raw_id} has not been planned")
        table = self._tables.get(record.plan_key)
        if table is None:
            table = decode_table(await read(self.objects, record.plan_key, max_bytes=_MAX_TABLE_BYTES))
            remember(self._tables, record.plan_key, table, _TABLES_REMEMBERED)
        return table

    async def queue_step(self, tenant: str, raw_id: str) -> None:
        """Ask for the batch to be moved on, by whoever is free."""
        await publish(self._js, subjects.step(tenant, raw_id), encode_task(StepTask(tenant, raw_id)), STEPS)

    async def has_step(self, tenant: str, raw_id: str) -> bool:
        """Whether a wish to move the batch waits or is being worked on."""
        try:
            message = await self._js.get_last_msg(STEPS, subjects.step(tenant, raw_id))
            return message.seq is not None and message.seq > await self._acknowledged_steps()
        except NotFoundError:
            return False
        except (Error, OSError) as error:
            raise ServiceUnavailable("The step queue did not answer.") from error

    async def queue_stranded_steps(self) -> int:
        """Queue the wishes anew that nobody would get any more; how many."""
        queued = 0
        try:
            acknowledged = await self._acknowledged_steps()
            for _ in range((await self._js.stream_info(STEPS)).state.messages):
                first = (await self._js.stream_info(STEPS)).state.first_seq
                if first > acknowledged:
                    break
                message = await self._js.get_msg(STEPS, first)
                assert message.subject is not None
                # It takes the place of the old one.
                await publish(self._js, message.subject, message.data or b"", STEPS)
                queued += 1
        except NotFoundError:
            return queued  # it went in this moment
        except (Error, OSError) as error:
            raise ServiceUnavailable("The step queue did not answer.") from error
        return queued

    async def _acknowledged_steps(self) -> int:
        """The sequence up to which all steps are acknowledged. A NATS server that is killed between an acknowledgement
        and what follows keeps both it and the message, which is then there and is delivered to nobody."""
        return int((await self._js.consumer_info(STEPS, STEPS_CONSUMER)).ack_floor.stream_seq)

    async def queue_shard(self, record: BatchRecord, shard: int) -> None:
        """Queue a shard, unless it is queued or running already."""
        pool = record.pool if record.pool is not None else (await self.table(record)).shards[shard].pool
        assert pool is not None
        task = ShardTask(record.tenant, record.raw_id, shard)
        if record.native is not None:
            subject = subjects.native_work(pool, record.raw_id)
        else:
            subject = subjects.work(pool, record.raw_id, shard)
        await publish(self._js, subject, encode_task(task), WORK)

    async def announce(self, record: BatchRecord, status: BatchStatus) -> BatchRecord | None:
        """Publish the event of a status, then take it off the record's list."""
        event = to_event(record, status)
        await publish(self._js, event.subject, event.model_dump_json().encode(), EVENTS, {"Nats-Msg-Id": event.id})
        if status.is_terminal:
            crash_point("event.published")
        return await self.change(record, lambda current: announced(current, status))

    async def tick(self, record: BatchRecord) -> None:
        """Tell who watches how far the batch is."""
        progress = BatchProgress(
            batch_id=record.public_id, status=record.status, request_counts=record.counts, usage=record.usage
        )
        await self._connection.publish(subjects.live(record.tenant, record.raw_id), progress.model_dump_json().encode())

    async def remove_objects(self, record: BatchRecord) -> None:
        """Delete everything that the batch worked with."""
        keys: list[str] = []
        async for info in self.objects.list(batch_prefix(record.tenant, record.raw_id)):
            keys.append(info.key)
            if len(keys) >= _DELETE_BATCH:
                await self.objects.delete(keys)
                keys.clear()
        if keys:
            await self.objects.delete(keys)

    async def remove_orphans(self, older_than: datetime) -> int:
        """Delete working objects, outcomes and progress that no batch will ever ask for again; how many there were.

        A process that comes back after long, as from a suspended machine, may write for a batch that has ended.
        """
        orphans: list[str] = []
        removed, checked, is_over = 0, "", False
        async for info in self.objects.list(BATCHES_PREFIX):
            tenant, raw_id = parse_batch_key(info.key)
            if checked != raw_id:
                record = await self.get(tenant, raw_id)
                checked, is_over = raw_id, record is None or record.swept
            if is_over and info.modified_at < older_than:
                orphans.append(info.key)
                removed += 1
            if len(orphans) >= _DELETE_BATCH:
                await self.objects.delete(orphans)
                orphans.clear()
        await self.objects.delete(orphans)
        return removed + await self._remove_orphaned(self._outcomes) + await self._remove_orphaned(self._progress)

    async def _remove_orphaned(self, records: Records[Any]) -> int:
        removed, checked, is_over = 0, "", False
        async with aclosing(records.list("")) as entries:
            async for entry in entries:
                batch_key = entry.key.rpartition(".")[0]
                if checked != batch_key:
                    found = await self.records.get(batch_key)
                    checked, is_over = batch_key, found is None or found.value.swept
                    if is_over:
                        await records.erase(batch_key)
                removed += is_over
        return removed

    def list(self, tenant: str) -> AsyncGenerator[Entry[BatchRecord], None]:
        return self.records.list(subjects.encode_token(tenant))
