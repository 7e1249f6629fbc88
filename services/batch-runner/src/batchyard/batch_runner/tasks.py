"""What lies in the queues: names of what to work on. The record and the plan say the rest."""

import msgspec


class StepTask(msgspec.Struct, frozen=True):
    """Move a batch on."""

    tenant: str
    batch: str


class ShardTask(msgspec.Struct, frozen=True):
    """Run one shard of a batch."""

    tenant: str
    batch: str
    shard: int


_encoder = msgspec.json.Encoder()
_step_decoder = msgspec.json.Decoder(StepTask)
_shard_decoder = msgspec.json.Decoder(ShardTask)


def encode_task(task: StepTask | ShardTask) -> bytes:
    return _encoder.encode(task)


def decode_step(data: bytes) -> StepTask:
    """Raises msgspec.DecodeError for bytes that are no step."""
    return _step_decoder.decode(data)


def decode_shard(data: bytes) -> ShardTask:
    """Raises msgspec.DecodeError for bytes that are no shard's task."""
    return _shard_decoder.decode(data)
