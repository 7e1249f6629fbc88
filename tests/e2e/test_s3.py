"""The main job with its bytes on an S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.common.contracts.batches import BatchStatus, CreateBatch
from batchyard.common.contracts.health import CheckBatchRunner, CheckFileStore
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import open_object_store
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from support.s3 import S3Server, start_s3_server
from support.services import Caller, file_store_and_runner
from support.stack import MODEL, config_for
from support.systems import Yard, request_line

LINES = 300


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with start_s3_server(tmp_path / "s3") as server:
        yield server


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
        content = b"\n".join(request_line(f"r{index}", f"question {index}") for index in range(LINES))
        file = await call.upload(content, model=MODEL)
        batch = await call(CreateBatch(input_file_id=file.id, endpoint="/v1/chat/completions"))
        batch = await call.ended(batch.id)
        assert batch.status is BatchStatus.COMPLETED
        output = await call.content(batch.output_file_id)
        assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(LINES)]
        await objects.close()
