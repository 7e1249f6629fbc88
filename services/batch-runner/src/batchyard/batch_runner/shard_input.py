"""What there is to run in a shard, and the requests in it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.lines import BLANK, RequestLine, named_model, read_request
from batchyard.batch_runner.shard import ShardRange, ShardTable, shard_prefix
from batchyard.common.objects import ObjectStore, read_lines


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


def shard_input(record: BatchRecord, table: ShardTable, shard: int) -> ShardInput:
    """What a run of a shard needs to know, under a name of its own."""
    where = table.shards[shard]
    return ShardInput(
        object_key=record.input_key,
        range=where,
        shard=shard,
        prefix=shard_prefix(record.tenant, record.raw_id, shard),
        attempt=uuid4().hex,
        batch_hex=batch_hex_of(record),
        endpoint=record.endpoint,
        model=record.model,
        pool=where.pool or record.pool or "",
        models=table.models_of(where.pool),
        names=table.names,
    )


def batch_hex_of(record: BatchRecord) -> str:
    return record.raw_id.removeprefix("batch_")


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
