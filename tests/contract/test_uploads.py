"""The Uploads API as the unchanged `openai` SDK calls it, up to a batch over a file that came in parts."""

import asyncio
import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support.stack import MODEL
from support.systems import request_line

from .test_openai import ended

HEADERS = {"x-litellm-model": MODEL}
CONTENT = b"".join(request_line(f"r{number}", f"question {number}") + b"\n" for number in range(200))


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


def test_parts_sent_out_of_order_become_a_batch(client: OpenAI) -> None:
    upload = client.uploads.create(
        bytes=len(CONTENT),
        filename="in.jsonl",
        mime_type="application/jsonl",
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
        extra_headers=HEADERS,
    )
    assert (upload.object, upload.status, upload.file) == ("upload", "pending", None)
    assert upload.expires_at == upload.created_at + 3600
    parts = list(enumerate(pieces(CONTENT, 5000)))
    random.Random(1).shuffle(parts)
    with ThreadPoolExecutor(4) as senders:
        sent = senders.map(lambda part: (part[0], client.uploads.parts.create(upload.id, data=part[1])), parts)
        part_ids = [part.id for _, part in sorted(sent, key=lambda pair: pair[0])]
    md5 = hashlib.md5(CONTENT).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=part_ids, md5=md5)
    assert (done.id, done.status) == (upload.id, "completed")
    assert done.file is not None
    assert (done.file.bytes, done.file.purpose, done.file.status) == (len(CONTENT), "batch", "processed")
    assert done.file.expires_at == done.file.created_at + 7200
    assert client.files.retrieve(done.file.id) == done.file
    assert client.files.content(done.file.id).content == CONTENT
    batch = client.batches.create(input_file_id=done.file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = ended(client, batch.id)
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"r{number}" for number in range(200)]


def test_a_file_is_uploaded_in_chunks(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(CONTENT)
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="batch", part_size=7000, md5=hashlib.md5(CONTENT).hexdigest()
    )
    assert done.file is not None
    assert done.file.filename == "in.jsonl"
    assert client.files.content(done.file.id).content == CONTENT


async def test_the_same_with_the_async_client(async_client: AsyncOpenAI) -> None:
    content = b"\x00\xff" * 50_000
    done = await async_client.uploads.upload_file_chunked(
        file=content, filename="a b.bin", bytes=len(content), mime_type="x/y", purpose="user_data", part_size=30_000
    )
    assert done.file is not None
    assert (await async_client.files.content(done.file.id)).content == content
    upload = await async_client.uploads.create(bytes=4, filename="a", mime_type="x", purpose="user_data")
    parts = await asyncio.gather(
        *(async_client.uploads.parts.create(upload.id, data=data) for data in (b"a", b"b", b"c", b"d"))
    )
    assert {(part.object, part.upload_id) for part in parts} == {("upload.part", upload.id)}
    both = await asyncio.gather(
        *(async_client.uploads.complete(upload.id, part_ids=[part.id for part in parts]) for _ in range(2))
    )
    assert both[0] == both[1]
    assert both[0].file is not None
    assert (await async_client.files.content(both[0].file.id)).content == b"abcd"


def test_an_upload_is_cancelled(client: OpenAI) -> None:
    upload = client.uploads.create(bytes=1, filename="a", mime_type="x", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"a")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="Cannot complete an upload with status 'cancelled'.") as caught:
        client.uploads.complete(upload.id, part_ids=[part.id])
    assert caught.value.code == "upload_cancelled"
    with pytest.raises(openai.BadRequestError, match="Cannot add a part to an upload with status 'cancelled'."):
        client.uploads.parts.create(upload.id, data=b"a")


def test_errors_are_what_the_client_knows(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="No such Upload object: upload_nope"):
        client.uploads.cancel("upload_nope")
    with pytest.raises(openai.NotFoundError):
        client.uploads.parts.create("upload_nope", data=b"a")
    upload = client.uploads.create(bytes=3, filename="a", mime_type="x", purpose="user_data")
    part = client.uploads.parts.create(upload.id, data=b"ab")
    with pytest.raises(openai.BadRequestError, match="hold 2 bytes in total") as caught:
        client.uploads.complete(upload.id, part_ids=[part.id])
    assert (caught.value.code, caught.value.param) == ("size_mismatch", "part_ids")
    with pytest.raises(openai.BadRequestError, match="No such Part object: part_nope"):
        client.uploads.complete(upload.id, part_ids=["part_nope"])
    with pytest.raises(openai.BadRequestError, match="The part is empty"):
        client.uploads.parts.create(upload.id, data=b"")
    with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
        client.uploads.create(bytes=1, filename="a.txt", mime_type="text/plain", purpose="batch")
