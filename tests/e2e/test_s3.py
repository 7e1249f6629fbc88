"""The main job with its bytes on an S3 server."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.common.contracts.batches import BatchStatus, CreateBatch
from batchyard.common.contracts.files import OpenDownload, Purpose
from batchyard.common.contracts.health import CheckBatchRunner, CheckFileStore
from batchyard.common.contracts.uploads import AddPart, CompleteUpload, CreateUpload, OpenPart, UploadStatus
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import open_object_store, read
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.file_store import app as file_store
from batchyard.file_store.settings import FileStoreSettings
from support.s3 import S3Server, start_s3_server
from support.services import Caller, file_store_and_runner, running
from support.stack import MODEL, config_for
from support.streams import content
from support.systems import Yard, request_line

LINES = 300


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with start_s3_server(tmp_path / "s3") as server:
        yield server


@pytest.mark.timeout(120)
async def test_small_and_large_parts_are_joined_on_an_s3_server(
    s3: S3Server, settings: Settings, messaging: Messaging
) -> None:
    url = f"s3://batchyard?endpoint={s3.endpoint}&create_bucket=true"
    over_s3 = FileStoreSettings(
        **settings.model_dump(exclude_unset=True)
        | {
            "object_store": url,
            "object_store_access_key": s3.access_key,
            "object_store_secret_key": s3.secret_key,
            "expiry_interval": 0.1,
        }
    )
    objects = open_object_store(url, access_key=s3.access_key, secret_key=s3.secret_key)
    async with running(file_store.serve(over_s3)):
        call = Caller(CommandClient(messaging.connection, timeout=30), objects)
        await call.ready(CheckFileStore())
        # S3 wants at least 5 MiB of every part but the last: nobody who uploads knows that.
        contents = [content(size, seed) for seed, size in enumerate((100_000, 6 << 20, 1, 5 << 20, 70_000, 30_000))]
        whole = b"".join(contents)
        upload = await call(CreateUpload(filename="big.bin", purpose=Purpose.USER_DATA, bytes=len(whole)))
        part_ids = []
        for data in contents:
            place = await call(OpenPart(upload_id=upload.id))
            await objects.put(place.object_key, data)
            part_ids.append((await call(AddPart(upload_id=upload.id, object_key=place.object_key))).id)
        done = await call(
            CompleteUpload(upload_id=upload.id, part_ids=tuple(part_ids), md5=hashlib.md5(whole).hexdigest(), wait=25)
        )
        assert done.status is UploadStatus.COMPLETED
        download = await call(OpenDownload(file_id=done.file.id))
        assert await read(objects, download.object_key, max_bytes=len(whole)) == whole
        async with asyncio.timeout(20):
            while [info async for info in objects.list("uploads/")]:
                await asyncio.sleep(0.05)
    await objects.close()


@pytest.mark.timeout(120)
async def test_a_batch_over_an_s3_server(
    s3: S3Server, settings: Settings, messaging: Messaging, yard: Yard, tmp_path: Path
) -> None:
    sim = await yard.sim()
    url = f"s3://batchyard?endpoint={s3.endpoint}&create_bucket=true"
    over_s3 = settings.model_copy(
        update={
            "object_store": url,
            "object_store_access_key": s3.access_key,
            "object_store_secret_key": s3.secret_key,
        }
    )
    config = config_for(sim.url.removesuffix("/v1"), tmp_path / "config.yaml")
    async with file_store_and_runner(over_s3, config=config, shard_lines=100):
        objects = open_object_store(url, access_key=s3.access_key, secret_key=s3.secret_key)
        call = Caller(CommandClient(messaging.connection), objects)
        await call.ready(CheckFileStore(), CheckBatchRunner())
        requests = b"\n".join(request_line(f"r{index}", f"question {index}") for index in range(LINES))
        file = await call.upload(requests, model=MODEL)
        batch = await call(CreateBatch(input_file_id=file.id, endpoint="/v1/chat/completions"))
        batch = await call.ended(batch.id)
        assert batch.status is BatchStatus.COMPLETED
        output = await call.content(batch.output_file_id)
        assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES)]
        await objects.close()
