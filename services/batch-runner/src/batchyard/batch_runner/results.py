"""From shards to files: settling what runners left, joining the parts, registering the output and the error file."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

from batchyard.batch_runner.batch import BatchRecord, ShardOutcome
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.lines import read_request, request_id
from batchyard.batch_runner.run import ShardInput, ShardRun, Stop, not_run, numbered_requests
from batchyard.batch_runner.segments import CHUNK_BYTES
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange, ShardTable, shard_prefix
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.files import CreateFile, Purpose
from batchyard.common.crash import crash_point
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.object_keys import batch_prefix, file_key


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """The public IDs of a batch's files; None for the one that would be empty."""

    output_id: str | None
    error_id: str | None


class Results:
    """The end of a batch. Every method may run twice: names and contents are the same each time."""

    def __init__(self, store: BatchStore, commands: CommandClient, settings: RunnerSettings) -> None:
        self._store = store
        self._commands = commands
        self._settings = settings

    async def settle_abandoned(self, record: BatchRecord, shard: int) -> None:
        """Hand in a shard of an ending batch that no runner handed in: its segments, and errors for the rest."""
        table = await self._store.table(record)
        run = ShardRun(shard_input(record, table.shards[shard], shard), self._store.objects, self._settings, _ignore)
        run.stop(stop_reason(record))
        await run.recover()
        if not await self._store.hand_in(record, await run.settle()):
            await self._store.tidy_up(record)

    async def publish(self, record: BatchRecord) -> ResultFiles:
        """Join the parts of all shards and register the files."""
        if record.plan_key is None:
            return ResultFiles(None, None)
        table = await self._store.table(record)
        outcomes = [await self._outcome(record, shard) for shard in range(record.dispatched)]
        outputs = [outcome.output_key for outcome in outcomes if outcome.output_key]
        errors = [outcome.error_key for outcome in outcomes if outcome.error_key]
        if record.dispatched < len(table.shards):
            errors.append(await self._write_tail(record, table))
        return ResultFiles(
            output_id=await self._register(record, outputs, record.output_uuid, "output"),
            error_id=await self._register(record, errors, record.error_uuid, "error"),
        )

    async def _outcome(self, record: BatchRecord, shard: int) -> ShardOutcome:
        outcome = await self._store.outcome(record, shard)
        if outcome is None:
            raise LookupError(f"shard {shard} of {record.raw_id} is counted but has no outcome")
        return outcome

    async def _write_tail(self, record: BatchRecord, table: ShardTable) -> str:
        """The lines that were never queued, as errors that say why: one pass over the end of the input."""
        first, last = table.shards[record.dispatched], table.shards[-1]
        tail = ShardRange(first.offset, last.offset + last.length - first.offset, first.first_line, 0)
        key = f"{batch_prefix(record.tenant, record.raw_id)}tail-{uuid4().hex}"
        await self._store.objects.put(key, self._tail_lines(record, tail))
        return key

    async def _tail_lines(self, record: BatchRecord, tail: ShardRange) -> AsyncIterator[bytes]:
        why, batch_hex = stop_reason(record), batch_hex_of(record)
        chunk = bytearray()
        async for line, text in numbered_requests(self._store.objects, record.input_key, tail):
            custom_id = bytes(read_request(text).custom_id)
            chunk += not_run(line, request_id(batch_hex, line), custom_id, why).text
            chunk += b"\n"
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
        yield bytes(chunk)

    async def _register(self, record: BatchRecord, parts: list[str], uuid: str | None, what: str) -> str | None:
        if not parts:
            return None
        assert uuid is not None
        key = file_key(record.tenant, uuid)
        await self._store.objects.concatenate(key, parts)
        crash_point("output.joined")
        command = CreateFile(
            filename=f"{record.raw_id}_{what}.jsonl",
            purpose=Purpose.BATCH_OUTPUT,
            object_key=key,
            model=record.model,
            expires_after=record.output_expires_after,
        )
        return (await self._commands.call(record.tenant, command)).id


def shard_input(record: BatchRecord, where: ShardRange, shard: int) -> ShardInput:
    """What a run of a shard needs to know, under a name of its own."""
    return ShardInput(
        object_key=record.input_key,
        range=where,
        shard=shard,
        prefix=shard_prefix(record.tenant, record.raw_id, shard),
        attempt=uuid4().hex,
        batch_hex=batch_hex_of(record),
        endpoint=record.endpoint,
        model=record.model or "",
    )


def stop_reason(record: BatchRecord) -> Stop:
    """Why the lines of an ending batch are left."""
    return Stop.EXPIRED if record.ending is BatchStatus.EXPIRED else Stop.CANCELLED


def batch_hex_of(record: BatchRecord) -> str:
    return record.raw_id.removeprefix("batch_")


async def _ignore(progress: ShardProgress) -> None:
    """Progress of a batch that is ending interests nobody."""
