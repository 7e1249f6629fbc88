from pathlib import Path

import pytest
from pydantic import SecretStr

from batchyard.common.objects import LocalObjectStore, open_object_store
from batchyard.common.objects.minio import MinioObjectStore
from batchyard.common.objects.minio_client import MinioConfig

S3 = "s3://bucket?endpoint=http://127.0.0.1:9000"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_file_url_opens_a_folder(tmp_path: Path) -> None:
    store = open_object_store(f"file://{tmp_path}/with%20space")
    assert isinstance(store, LocalObjectStore)
    assert names(tmp_path) == []  # nothing is touched before the first call
    await store.check()
    assert names(tmp_path) == ["with space"]
    await store.close()
    await store.close()


@pytest.mark.parametrize("secret", ["hunter22", SecretStr("hunter22")], ids=["str", "SecretStr"])
async def test_an_s3_url_opens_a_bucket(secret: str | SecretStr) -> None:
    store = open_object_store(S3 + "&region=eu-1&create_bucket=true", access_key="key", secret_key=secret)
    assert isinstance(store, MinioObjectStore)
    await store.close()
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "objects",
        "file://",
        "file://host/path",
        "file:///path?x=1",
        "ftp://host/path",
        "s3://bucket",
        "s3://?endpoint=http://127.0.0.1",
        "s3://bucket/path?endpoint=http://127.0.0.1",
        "s3://b?endpoint=http://127.0.0.1",
        "s3://bucket?endpoint=127.0.0.1:9000",
        "s3://bucket?endpoint=http://127.0.0.1/path",
        "s3://bucket?endpoint=http://key:hunter22@127.0.0.1",
        "s3://key:hunter22@bucket?endpoint=http://127.0.0.1",
        S3 + "&public_endpoint=files.example.com",
        S3 + "&create_bucket=perhaps",
        S3 + "&secret_key=hunter22",
    ],
)
def test_what_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - many messages
        open_object_store(url, access_key="key", secret_key="hunter22")
    assert "hunter22" not in str(caught.value)


def test_s3_needs_credentials() -> None:
    with pytest.raises(ValueError, match="access key"):
        open_object_store(S3)


def test_parts_have_the_size_that_s3_demands() -> None:
    with pytest.raises(ValueError, match="part_bytes"):
        MinioConfig("http://127.0.0.1", "bucket", "key", SecretStr("hunter22"), part_bytes=1024)


def test_the_secret_does_not_show() -> None:
    assert "hunter22" not in repr(MinioConfig("http://127.0.0.1", "bucket", "key", SecretStr("hunter22")))
