"""The input as the server gets it: each request under the ID that its result will have, with the server's own name for
the model.

The client's custom_ids stay here. So an answer says by itself which line it belongs to, in whatever order the answers
come, and no table of names has to be kept in memory.
"""

from collections.abc import AsyncIterator

import msgspec

from batchyard.batch_runner.lines import body_for
from batchyard.batch_runner.segments import CHUNK_BYTES
from batchyard.batch_runner.shard_input import ShardInput, numbered_requests
from batchyard.common.objects import ObjectStore
from batchyard.common.result_lines import request_id

_encoder = msgspec.json.Encoder()


async def upstream_input(store: ObjectStore, shard: ShardInput, model: str) -> AsyncIterator[bytes]:
    """The request lines, gathered into chunks worth sending; `model` is the server's name for theirs."""
    head, middle = b'{"custom_id":"%b","method":"POST","url":', b',"body":%b}\n'
    url = _encoder.encode(shard.endpoint)
    chunk = bytearray()
    async for line, request in numbered_requests(store, shard.object_key, shard.range, shard.models):
        chunk += head % request_id(shard.batch_hex, line).encode()
        chunk += url
        chunk += middle % body_for(request, model)
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


async def multipart(boundary: str, filename: str, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body of `POST /v1/files` (RFC 7578) around a stream of unknown length. The purpose comes first: a server may
    want to know it before it takes the bytes."""
    yield (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    async for chunk in content:
        yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()
