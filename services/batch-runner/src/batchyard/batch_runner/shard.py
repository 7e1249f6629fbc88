"""Shards: contiguous runs of a batch's lines, the unit of work and of redelivery."""

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from batchyard.common.object_keys import batch_prefix


class ShardRange(msgspec.Struct, frozen=True, array_like=True):
    """Where a shard's lines lie in the input.

    Attributes:
        offset: First byte.
        length: Bytes, line ends included.
        first_line: The number of its first line in the file, from 1, blank lines counted.
        requests: Lines that are requests of this shard.
        pool: Whose lines they are, in a batch of several models: lines of other pools may lie between them. None in a
            batch of one model, whose record names the pool.
    """

    offset: int
    length: int
    first_line: int
    requests: int
    pool: str | None = None


class ShardTable(msgspec.Struct, frozen=True):
    """A batch's shards, each pool's together and in input order: what the plan leaves behind.

    `models` tells the pool of each model that the lines name, in a batch of several models: what it was when the batch
    was planned, so that no line changes its shard when the configuration does. None in a batch of one model. `names`
    tells what such a model is shown as, where lines call it by another name, such as an alias.
    """

    shards: list[ShardRange]
    models: dict[str, str] | None = None
    names: dict[str, str] = {}

    @property
    def pools(self) -> list[str | None]:
        """The pools that the shards are for."""
        return list(dict.fromkeys(shard.pool for shard in self.shards))

    def models_of(self, pool: str | None) -> frozenset[str] | None:
        """The model names of a pool's lines; None when the lines are not told apart by their models."""
        if self.models is None:
            return None
        return frozenset(name for name, serving in self.models.items() if serving == pool)


_encoder = msgspec.json.Encoder()
_table_decoder = msgspec.json.Decoder(ShardTable)


def whole(table: ShardTable) -> ShardTable:
    """The same lines as a single shard."""
    first, last = table.shards[0], table.shards[-1]
    length = last.offset + last.length - first.offset
    return ShardTable([ShardRange(first.offset, length, first.first_line, sum(s.requests for s in table.shards))])


def encode_table(table: ShardTable) -> bytes:
    return _encoder.encode(table)


def decode_table(data: bytes) -> ShardTable:
    return _table_decoder.decode(data)


def fair_window(window: int, slots: int, batches: int) -> int:
    """How many of its shards a batch has in the queue of a pool that serves so many batches, itself included.

    `window` when it is alone. Otherwise so few that all batches together leave some of a runner's `slots` to the next
    one that comes: it finds a slot at once, instead of a queue of others' shards.
    """
    return window if batches <= 1 else max(1, min(window, slots // (batches + 1)))


def next_shards(
    table: ShardTable, unqueued: Iterable[int], outstanding: Iterable[int], window: Callable[[str | None], int]
) -> list[int]:
    """The shards to queue, so that each pool has its window of them as long as there are so many, and no more: one pool
    that is down neither holds back another nor fills the queue."""
    room = Counter({pool: window(pool) for pool in table.pools})
    room.subtract(table.shards[shard].pool for shard in outstanding)
    found = []
    for shard in unqueued:
        pool = table.shards[shard].pool
        if room[pool] > 0:
            room[pool] -= 1
            found.append(shard)
    return found


def plan_key(tenant: str, batch: str, attempt: str) -> str:
    """Each attempt to plan writes its own table; the record names the one that counts."""
    return f"{batch_prefix(tenant, batch)}plan-{attempt}"


def shard_prefix(tenant: str, batch: str, shard: int) -> str:
    """Where a shard's segments and parts lie."""
    return f"{batch_prefix(tenant, batch)}{shard:08d}/"
