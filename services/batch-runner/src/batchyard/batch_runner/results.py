"""From shards to files: settling what runners left, joining the parts, registering the output and the error file."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from uuid import uuid4

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.native.run import NativeRun
from batchyard.batch_runner.native.servers import NativeServers
from batchyard.batch_runner.outcome import ShardOutcome
from batchyard.batch_runner.run import ShardRun
from batchyard.batch_runner.segments import CHUNK_BYTES
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange, ShardTable
from batchyard.batch_runner.shard_input import batch_hex_of, numbered_requests, shard_input
from batchyard.batch_runner.stop import not_run, stop_reason
from batchyard.batch_runner.tally import ShardProgress
from batchyard.common.contracts.files import CreateFile, Purpose
from batchyard.common.crash import crash_point
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.object_keys import batch_prefix, file_key
from batchyard.common.objects import ObjectStore, read_lines
from batchyard.common.result_lines import merged_results, request_id


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """The public IDs of a batch's files; None for the one that would be empty."""

    output_id: str | None
    error_id: str | None


class Results:
    """The end of a batch. Every method may run twice: names and contents are the same each time."""

    def __init__(
        self, store: BatchStore, natives: NativeServers, commands: CommandClient, settings: RunnerSettings
    ) -> None:
        self._store = store
        self._natives = natives
        self._commands = commands
        self._settings = settings

    async def settle_abandoned(self, record: BatchRecord, shard: int) -> None:
        """Hand in a shard of an ending batch that no runner handed in: its segments, and errors for the rest."""
        table = await self._store.table(record)
        where = shard_input(record, table, shard)
        run: ShardRun | NativeRun
        if record.native is None:
            run = ShardRun(where, self._store.objects, self._settings, _ignore)
            run.stop(stop_reason(record))
            await run.recover()
        else:
            run = self._natives.run(record, where, _ignore)
            run.stop(stop_reason(record))
            await run.execute()
        if not await self._store.hand_in(record, await run.settle()):
            await self._store.tidy_up(record)

    async def publish(self, record: BatchRecord) -> ResultFiles:
        """Join the parts of all shards and register the files."""
        if record.plan_key is None:
            return ResultFiles(None, None)
        table = await self._store.table(record)
        outputs, errors = [], []
        for pool in table.pools:
            shards = [number for number, shard in enumerate(table.shards) if shard.pool == pool]
            outcomes = [await self._outcome(record, shard) for shard in shards if record.is_queued(shard)]
            outputs.append([outcome.output_key for outcome in outcomes if outcome.output_key])
            errors.append([outcome.error_key for outcome in outcomes if outcome.error_key])
            if not record.is_queued(shards[-1]):
                left = [shard for shard in shards if not record.is_queued(shard)]
                errors[-1].append(await self._write_tail(record, table, left))
        return ResultFiles(
            output_id=await self._register(record, outputs, record.output_uuid, "output"),
            error_id=await self._register(record, errors, record.error_uuid, "error"),
        )

    async def _outcome(self, record: BatchRecord, shard: int) -> ShardOutcome:
        outcome = await self._store.outcome(record, shard)
        if outcome is None:
            raise LookupError(f"shard {shard} of {record.raw_id} is counted but has no outcome")
        return outcome

    async def _write_tail(self, record: BatchRecord, table: ShardTable, left: Sequence[int]) -> str:
        """The lines of a pool's shards that were never queued, its last ones, as errors that say why: one pass over the
        end of the input."""
        first, last = table.shards[left[0]], table.shards[left[-1]]
        tail = ShardRange(first.offset, last.offset + last.length - first.offset, first.first_line, 0)
        key = f"{batch_prefix(record.tenant, record.raw_id)}tail-{uuid4().hex}"
        await self._store.objects.put(key, self._tail_lines(record, tail, table.models_of(first.pool)))
        return key

    async def _tail_lines(
        self, record: BatchRecord, tail: ShardRange, models: frozenset[str] | None
    ) -> AsyncIterator[bytes]:
        why, batch_hex = stop_reason(record), batch_hex_of(record)
        chunk = bytearray()
        async for line, request in numbered_requests(self._store.objects, record.input_key, tail, models):
            chunk += not_run(line, request_id(batch_hex, line), bytes(request.custom_id), why).text
            chunk += b"\n"
            if len(chunk) >= CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
        yield bytes(chunk)

    async def _register(
        self, record: BatchRecord, parts_by_pool: list[list[str]], uuid: str | None, what: str
    ) -> str | None:
        chains = [parts for parts in parts_by_pool if parts]
        if not chains:
            return None
        assert uuid is not None
        key = file_key(record.tenant, uuid)
        if len(chains) == 1:
            await self._store.objects.concatenate(key, chains[0])
        else:
            objects = self._store.objects
            await objects.put(key, merged_results([_chained(objects, parts) for parts in chains]))
        crash_point("output.joined")
        command = CreateFile(
            filename=f"{record.raw_id}_{what}.jsonl",
            purpose=Purpose.BATCH_OUTPUT,
            object_key=key,
            model=record.model,
            expires_after=record.output_expires_after,
        )
        return (await self._commands.call(record.tenant, command)).id


async def _chained(store: ObjectStore, keys: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """The lines of several objects, one after the other."""
    for key in keys:
        async with aclosing(read_lines(store, key)) as lines:
            async for line in lines:
                yield line


async def _ignore(progress: ShardProgress) -> None:
    """Progress of a batch that is ending interests nobody."""
