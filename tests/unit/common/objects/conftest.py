"""The contract's two worlds: a folder, and a real S3 server whose name is part of the test's ID."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from minio import Minio
from pydantic import SecretStr

from batchyard.common.objects import LocalObjectStore, ObjectStore
from batchyard.common.objects.minio import MinioObjectStore
from batchyard.common.objects.minio_client import MinioConfig
from support.s3 import S3Server, s3_server_name, start_s3_server

MIB = 1024 * 1024
BUCKET = "contract"


@dataclass(frozen=True)
class World:
    """A store to test, and a look behind it."""

    name: str
    store: ObjectStore
    leftovers: Callable[[], list[str]]
    """Names of what unfinished puts have left."""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3_server(tmp_path_factory.mktemp("s3")) as server:
        host = server.endpoint.removeprefix("http://")
        Minio(host, server.access_key, server.secret_key, secure=False).make_bucket(BUCKET)
        yield server


@pytest.fixture
def s3_config(s3_server: S3Server) -> MinioConfig:
    return MinioConfig(
        endpoint=s3_server.endpoint,
        bucket=BUCKET,
        access_key=s3_server.access_key,
        secret_key=SecretStr(s3_server.secret_key),
        create_bucket=True,
        part_bytes=5 * MIB,
    )


@pytest.fixture(params=["local", s3_server_name()])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "local":
        local = LocalObjectStore(tmp_path / "store")
        await local.check()
        yield World("local", local, lambda: [path.name for path in (tmp_path / "store/.tmp").iterdir()])
        await local.close()
        return
    config: MinioConfig = request.getfixturevalue("s3_config")
    store = MinioObjectStore(config)
    await store.check()
    yield World(request.param, store, lambda: unfinished_uploads(config))
    await store.close()


@pytest.fixture
def store(world: World) -> ObjectStore:
    return world.store


@pytest.fixture
def folder() -> str:
    """A prefix of this test's own: the bucket is shared."""
    return f"test-{uuid4().hex}/"


def unfinished_uploads(config: MinioConfig) -> list[str]:
    host = config.endpoint.removeprefix("http://")
    client = Minio(host, config.access_key, config.secret_key.get_secret_value(), secure=False)
    uploads = client._list_multipart_uploads(config.bucket).uploads
    client._http.clear()
    return [str(upload.object_name) for upload in uploads]
