"""Shards: contiguous runs of a batch's lines, the unit of work and of redelivery."""

import msgspec

from batchyard.common.object_keys import batch_prefix


class ShardRange(msgspec.Struct, frozen=True, array_like=True):
    """Where a shard's lines lie in the input.

    Attributes:
        offset: First byte.
        length: Bytes, line ends included.
        first_line: The number of its first line in the file, from 1, blank lines counted.
        requests: Lines that are requests.
    """

    offset: int
    length: int
    first_line: int
    requests: int


class ShardTable(msgspec.Struct, frozen=True):
    """A batch's shards in input order: what the plan leaves behind."""

    shards: list[ShardRange]


_encoder = msgspec.json.Encoder()
_table_decoder = msgspec.json.Decoder(ShardTable)


def encode_table(table: ShardTable) -> bytes:
    return _encoder.encode(table)


def decode_table(data: bytes) -> ShardTable:
    return _table_decoder.decode(data)


def plan_key(tenant: str, batch: str, attempt: str) -> str:
    """Each attempt to plan writes its own table; the record names the one that counts."""
    return f"{batch_prefix(tenant, batch)}plan-{attempt}"


def shard_prefix(tenant: str, batch: str, shard: int) -> str:
    """Where a shard's segments and parts lie."""
    return f"{batch_prefix(tenant, batch)}{shard:08d}/"
