"""The main job with its bytes on an S3 server."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from batchyard.common.contracts.batches import BatchStatus, CreateBatch
from batchyard.common.contracts.files import CreateFile, OpenDownload, OpenPlace, Purpose
from batchyard.common.contracts.health import CheckBatchRunner, CheckFileStore
from batchyard.common.contracts.uploads import AddPart, CompleteUpload, CreateUpload, OpenPart, UploadStatus
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore, open_object_store, read
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


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def url(s3: S3Server) -> str:
    """A store in a bucket of this test's own."""
    return f"s3://test-{uuid4().hex}?endpoint={s3.endpoint}&create_bucket=true"


@pytest.fixture
def over_s3(url: str, s3: S3Server, settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "object_store": url,
            "object_store_access_key": s3.access_key,
            "object_store_secret_key": SecretStr(s3.secret_key),
        }
    )


@pytest.fixture
async def objects(url: str, s3: S3Server) -> AsyncIterator[ObjectStore]:
    store = open_object_store(url, access_key=s3.access_key, secret_key=s3.secret_key)
    yield store
    await store.close()


@pytest.mark.timeout(120)
async def test_small_and_large_parts_are_joined_on_an_s3_server(
    over_s3: Settings, objects: ObjectStore, messaging: Messaging
) -> None:
    async with running(file_store.serve(file_store_settings(over_s3, expiry_interval=0.1))):
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


async def test_a_caller_without_credentials_sends_a_file_to_a_url(
    over_s3: Settings, objects: ObjectStore, messaging: Messaging
) -> None:
    async with (
        running(file_store.serve(file_store_settings(over_s3, upload_url_lifetime=60))),
        httpx.AsyncClient() as http,
    ):
        call = Caller(CommandClient(messaging.connection, timeout=30), objects)
        await call.ready(CheckFileStore())
        place = await call(OpenPlace(presigned=True))
        assert 0 < place.upload_url_expires_at - time.time() <= 60
        data = content(7 << 20)
        assert (await http.put(place.upload_url, content=data)).status_code == 200
        file = await call(CreateFile(filename="a.bin", purpose=Purpose.USER_DATA, object_key=place.object_key))
        assert (file.id, file.bytes) == (place.file_id, len(data))
        download = await call(OpenDownload(file_id=file.id))
        assert await read(objects, download.object_key, max_bytes=len(data)) == data


async def test_a_secret_that_the_store_refuses_is_a_503_that_says_nothing_and_a_log_that_says_all(
    over_s3: Settings, messaging: Messaging, objects: ObjectStore
) -> None:
    wrong = over_s3.model_copy(update={"object_store_secret_key": SecretStr("hunter22")})
    with capture_logs() as logs:
        async with running(file_store.serve(file_store_settings(wrong))):
            call = Caller(CommandClient(messaging.connection, timeout=30), objects)
            async with asyncio.timeout(20):
                while not any(log["event"] == "health.failing" for log in logs):
                    with suppress(ServiceUnavailable):
                        await call(CheckFileStore())
            with pytest.raises(ServiceUnavailable) as caught:
                await call(CreateFile(filename="a.txt", purpose=Purpose.USER_DATA, content="a"))
    assert "object store" in caught.value.message
    reason = next(log["reason"] for log in logs if log["event"] == "health.failing")
    assert "secret key is wrong (SignatureDoesNotMatch)" in reason
    assert "hunter22" not in repr(logs)
    assert not [log for log in logs if log.get("exc_info")]


@pytest.mark.timeout(120)
async def test_a_batch_over_an_s3_server(
    over_s3: Settings, objects: ObjectStore, messaging: Messaging, yard: Yard, tmp_path: Path
) -> None:
    sim = await yard.sim()
    config = config_for(sim.url.removesuffix("/v1"), tmp_path / "config.yaml")
    async with file_store_and_runner(over_s3, config=config, shard_lines=100):
        call = Caller(CommandClient(messaging.connection), objects)
        await call.ready(CheckFileStore(), CheckBatchRunner())
        requests = b"\n".join(request_line(f"r{index}", f"question {index}") for index in range(LINES))
        file = await call.upload(requests, model=MODEL)
        batch = await call(CreateBatch(input_file_id=file.id, endpoint="/v1/chat/completions"))
        batch = await call.ended(batch.id)
        assert batch.status is BatchStatus.COMPLETED
        output = await call.content(batch.output_file_id)
        assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES)]


def file_store_settings(settings: Settings, **more: float) -> FileStoreSettings:
    return FileStoreSettings(**settings.model_dump(exclude_unset=True) | more)
