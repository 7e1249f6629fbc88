"""What an installation on S3 meets: certificates, clocks, regions, addresses, buckets, URLs. All on a real server."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import minio.time
import pytest
from minio import Minio
from pydantic import SecretStr

from batchyard.common.objects import ObjectStoreUnavailable, open_object_store, read
from batchyard.common.objects.minio_client import Addressing, MinioConfig
from support.s3 import S3Server, start_s3_server
from support.streams import chunked, content
from support.tls import behind_tls

from .conftest import MIB
from .test_minio import opened, request, serving


async def test_an_authority_of_our_own_is_trusted_when_its_file_is_named(
    s3_config: MinioConfig, tmp_path: Path
) -> None:
    async with behind_tls(s3_config.endpoint, tmp_path) as (endpoint, ca_file):
        url = f"s3://{s3_config.bucket}?endpoint={endpoint}&ca_file={ca_file}"
        store = open_object_store(url, access_key=s3_config.access_key, secret_key=s3_config.secret_key)
        data = content(12 * MIB)
        await store.check()
        await store.put("tls/object", chunked(data, MIB))
        assert await read(store, "tls/object", max_bytes=len(data)) == data
        await store.close()


async def test_an_authority_that_is_not_trusted_is_told_from_a_server_that_is_away(
    s3_config: MinioConfig, tmp_path: Path
) -> None:
    async with (
        behind_tls(s3_config.endpoint, tmp_path) as (endpoint, _),
        opened(s3_config, endpoint=endpoint, retries=0) as store,
    ):
        with pytest.raises(ObjectStoreUnavailable, match=r"cannot be trusted: .*ca_file=") as caught:
            await store.check()
        assert endpoint in str(caught.value)


async def test_a_certificate_for_another_host_is_not_trusted(s3_config: MinioConfig, tmp_path: Path) -> None:
    async with (
        behind_tls(s3_config.endpoint, tmp_path, host="other.example") as (endpoint, ca_file),
        opened(s3_config, endpoint=endpoint, ca_file=ca_file, retries=0) as store,
    ):
        with pytest.raises(ObjectStoreUnavailable, match=r"cannot be trusted: .*(mismatch|not valid for)"):
            await store.check()


@pytest.mark.parametrize("made", [False, True], ids=["missing", "no-certificate"])
def test_a_file_of_authorities_that_is_none_is_named_at_the_start(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "ca.pem"
    if made:
        path.write_text("no certificate")
    url = f"s3://bucket?endpoint=https://127.0.0.1:9000&ca_file={path}"
    with pytest.raises(ValueError, match=r"ca_file .*/ca\.pem: (No such file|is not a PEM file)"):
        open_object_store(url, access_key="key", secret_key="secret")


async def test_a_wrong_key_and_a_wrong_secret_are_told_apart(s3_config: MinioConfig) -> None:
    async with opened(s3_config, secret_key=SecretStr("hunter22")) as store:
        with pytest.raises(ObjectStoreUnavailable, match=r"secret key is wrong \(SignatureDoesNotMatch\)"):
            await store.put("a", b"1")
    async with opened(s3_config, access_key="nobody", secret_key=SecretStr("hunter22")) as store:
        with pytest.raises(ObjectStoreUnavailable, match=r"does not know the access key \(InvalidAccessKeyId\)"):
            await store.put("a", b"1")


async def test_a_clock_that_is_wrong_is_said_to_be(s3_config: MinioConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minio.time, "utcnow", lambda: datetime.now(UTC) - timedelta(hours=1))
    async with opened(s3_config) as store:
        with pytest.raises(ObjectStoreUnavailable, match=r"set the clock .* \(RequestTimeTooSkewed\)"):
            await store.put("a", b"1")


async def test_a_server_in_another_region_is_said_to_be(s3_config: MinioConfig) -> None:
    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-1</Region></Error>"
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async with serving(elsewhere) as endpoint, opened(s3_config, endpoint=endpoint, retries=0) as store:
        with pytest.raises(ObjectStoreUnavailable, match="another region: add region="):
            await store.put("a", b"1")


async def test_a_region_of_the_servers_own_is_signed_for(s3_config: MinioConfig) -> None:
    async with opened(s3_config, region="eu-central-7") as store:
        assert "eu-central-7" in str(await store.put_url("a", 60))


async def test_a_bucket_that_is_missing_is_not_made_unasked(s3_config: MinioConfig) -> None:
    async with opened(s3_config, bucket="nobody-made-it", create_bucket=False) as store:
        for _ in range(2):
            with pytest.raises(
                ObjectStoreUnavailable, match="'nobody-made-it' does not exist: make it, or add create_"
            ):
                await store.check()


async def test_a_bucket_that_we_make_drops_abandoned_uploads(s3_server: S3Server, s3_config: MinioConfig) -> None:
    if s3_server.name != "seaweedfs":
        pytest.skip("MinIO drops them without a rule, and does not take one")
    async with opened(s3_config, bucket="with-a-rule") as store:
        await store.check()
    client = Minio(s3_server.endpoint.removeprefix("http://"), s3_server.access_key, s3_server.secret_key, secure=False)
    lifecycle = client.get_bucket_lifecycle("with-a-rule")
    client._http.clear()
    assert lifecycle is not None
    (rule,) = lifecycle.rules
    assert rule.abort_incomplete_multipart_upload is not None
    assert rule.abort_incomplete_multipart_upload.days_after_initiation == 1


async def test_a_bucket_may_be_part_of_the_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_s3_server(tmp_path / "s3", ["-s3.domainName=s3.test"]) as server:
        resolve = socket.getaddrinfo
        asked = []

        def resolve_locally(host: Any, *rest: Any, **options: Any) -> Any:
            asked.append(host)
            return resolve("127.0.0.1" if str(host).endswith("s3.test") else host, *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve_locally)
        port = urlsplit(server.endpoint).port
        url = f"s3://yard?endpoint=http://s3.test:{port}&addressing=virtual&create_bucket=true"
        store = open_object_store(url, access_key=server.access_key, secret_key=server.secret_key)
        await store.check()
        await store.put("a/b", content(6 * MIB))
        assert await read(store, "a/b", start=5, length=7, max_bytes=7) == content(6 * MIB)[5:12]
        assert [info.key async for info in store.list("a/")] == ["a/b"]
        await store.close()
    assert set(asked) == {"s3.test", "yard.s3.test"}  # the former to make the bucket alone


async def test_addressing_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="addressing is auto, path or virtual"):
        open_object_store("s3://b-1?endpoint=http://h&addressing=dns", access_key="key", secret_key="secret")
    assert [*Addressing] == ["auto", "path", "virtual"]


async def test_whoever_has_a_url_may_put_that_object_and_nothing_else(s3_config: MinioConfig, folder: str) -> None:
    async with opened(s3_config) as store, httpx.AsyncClient() as http:
        url = await store.put_url(folder + "object", 60)
        assert url is not None
        assert s3_config.secret_key.get_secret_value() not in url
        data = content(7 * MIB)
        assert (await http.put(url, content=data)).status_code == 200
        assert await read(store, folder + "object", max_bytes=len(data)) == data
        assert (await http.get(url)).status_code == 403
        assert (await http.delete(url)).status_code == 403
        assert (await http.put(url.replace("/object?", "/other?"), content=b"1")).status_code == 403
        assert [info.key async for info in store.list(folder)] == [folder + "object"]


async def test_a_url_is_signed_for_the_public_name_of_the_server(s3_config: MinioConfig, folder: str) -> None:
    key, data = folder + "object", content(MIB)
    public = s3_config.endpoint.replace("127.0.0.1", "localhost")
    async with opened(s3_config, public_endpoint=public) as store, httpx.AsyncClient() as http:
        url = str(await store.put_url(key, 60))
        assert url.startswith(public)
        assert (await http.put(url.replace("localhost", "127.0.0.1"), content=b"1")).status_code == 403
        assert (await http.put(url, content=data)).status_code == 200
        assert await read(store, key, max_bytes=len(data)) == data
        assert (await http.get(str(await store.get_url(key, 60)))).content == data
    async with opened(s3_config, public_endpoint="https://s3.invalid") as store:  # nobody is asked there
        assert str(await store.get_url(key, 60)).startswith("https://s3.invalid/")
        await store.check()


async def test_a_url_ends(s3_config: MinioConfig, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(s3_config) as store, httpx.AsyncClient() as http:
        with monkeypatch.context() as patch:
            patch.setattr(minio.time, "utcnow", lambda: datetime.now(UTC) - timedelta(seconds=61))
            url = str(await store.put_url(folder + "late", 60))
        assert (await http.put(url, content=b"1")).status_code == 403
        assert [info async for info in store.list(folder)] == []
        for seconds in (0, 7 * 86_400 + 1):
            with pytest.raises(ValueError, match="a URL is valid for"):
                await store.put_url(folder + "late", seconds)
