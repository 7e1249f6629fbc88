"""Downloads: the whole, parts of it, and what stands in the headers."""

import os
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.gateway.rig import KEY, LINE, Served, error_of, raw_request, until

from batchyard.common.errors import NotFound
from batchyard.gateway.byte_range import parse_range
from batchyard.gateway.downloads import content_disposition
from batchyard.gateway.errors import RangeNotSatisfiable

CONTENT = bytes(range(256)) * 8


def descriptors_of(key: str) -> int:
    """How often this process has an object open."""
    open_files = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(os.path.realpath(path).endswith(key) for path in open_files)


@pytest.fixture
async def file_id(gateway: Served) -> str:
    response = await gateway.upload(CONTENT, name='naïve "file".bin', purpose="user_data")
    return str(response.json()["id"])


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_content_is_what_was_uploaded(gateway: Served, file_id: str, prefix: str) -> None:
    response = await gateway.http.get(f"{prefix}/files/{file_id}/content")
    assert (response.status_code, response.content) == (200, CONTENT)


async def test_the_headers_describe_the_content(gateway: Served, file_id: str) -> None:
    headers = (await gateway.http.get(f"/v1/files/{file_id}/content")).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-length"] == str(len(CONTENT))
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-disposition"] == (
        "attachment; filename=\"na_ve _file_.bin\"; filename*=UTF-8''na%C3%AFve%20%22file%22.bin"
    )
    assert headers["etag"].startswith('"')


async def test_head_answers_the_headers_alone(gateway: Served, file_id: str) -> None:
    response = await gateway.http.head(f"/v1/files/{file_id}/content")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(CONTENT))


async def test_head_of_what_is_not_there_is_a_404_without_a_body(gateway: Served) -> None:
    for path in ("/v1/files/file-nope", "/v1/files/file-nope/content"):
        response = await gateway.http.head(path)
        assert (response.status_code, response.content) == (404, b"")


async def test_a_large_file_arrives_whole(gateway: Served) -> None:
    content = LINE * 100_000
    file_id = (await gateway.upload(content)).json()["id"]
    response = await gateway.http.get(f"/v1/files/{file_id}/content")
    assert response.content == content


async def test_an_empty_file_is_empty(gateway: Served) -> None:
    file_id = (await gateway.upload(b"", name="x", purpose="evals")).json()["id"]
    response = await gateway.http.get(f"/v1/files/{file_id}/content")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("sent", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, 2048),
        ("bytes=-3", 2045, 2048),
        ("bytes=-9999", 0, 2048),
        ("bytes=2000-9999", 2000, 2048),
        (f"bytes=1-{'9' * 30}", 1, 2048),
        ("Bytes= 7-9", 7, 10),
    ],
)
async def test_a_range_is_answered_with_that_part(
    gateway: Served, file_id: str, sent: str, first: int, end: int
) -> None:
    response = await gateway.http.get(f"/v1/files/{file_id}/content", headers={"range": sent})
    assert (response.status_code, response.content) == (206, CONTENT[first:end])
    assert response.headers["content-range"] == f"bytes {first}-{end - 1}/2048"
    assert response.headers["content-length"] == str(end - first)


@pytest.mark.parametrize("sent", ["bytes=2048-", "bytes=9999-10000", "bytes=-0", f"bytes={'9' * 30}-"])
async def test_a_range_beyond_the_end_is_a_416(gateway: Served, file_id: str, sent: str) -> None:
    response = await gateway.http.get(f"/v1/files/{file_id}/content", headers={"range": sent})
    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */2048"
    assert error_of(response)["param"] == "Range"


@pytest.mark.parametrize("sent", ["bytes=0-1,5-6", "lines=0-1", "bytes=x", "bytes=-", "bytes=5-2"])
async def test_a_range_that_is_not_one_range_is_the_whole(gateway: Served, file_id: str, sent: str) -> None:
    response = await gateway.http.get(f"/v1/files/{file_id}/content", headers={"range": sent})
    assert (response.status_code, response.content) == (200, CONTENT)


@pytest.mark.parametrize("condition", ['"other"', "W/{}", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_range_of_something_else_is_the_whole(gateway: Served, file_id: str, condition: str) -> None:
    etag = (await gateway.http.head(f"/v1/files/{file_id}/content")).headers["etag"]
    headers = {"range": "bytes=0-1", "if-range": condition.format(etag)}
    response = await gateway.http.get(f"/v1/files/{file_id}/content", headers=headers)
    assert response.status_code == 200


async def test_a_range_of_the_same_is_that_part(gateway: Served, file_id: str) -> None:
    path = f"/v1/files/{file_id}/content"
    etag = (await gateway.http.head(path)).headers["etag"]
    response = await gateway.http.get(path, headers={"range": "bytes=0-1", "if-range": etag})
    assert (response.status_code, response.content) == (206, CONTENT[:2])


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_what_the_client_has_is_not_sent_again(gateway: Served, file_id: str, form: str) -> None:
    path = f"/v1/files/{file_id}/content"
    etag = (await gateway.http.head(path)).headers["etag"]
    response = await gateway.http.get(path, headers={"if-none-match": form.format(etag)})
    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)


async def test_what_the_client_has_not_is_sent(gateway: Served, file_id: str) -> None:
    response = await gateway.http.get(f"/v1/files/{file_id}/content", headers={"if-none-match": '"other"'})
    assert response.status_code == 200


async def test_a_file_that_does_not_exist_is_a_404(gateway: Served) -> None:
    response = await gateway.http.get("/v1/files/file-nope/content")
    assert response.status_code == 404
    assert error_of(response)["message"] == "No such File object: file-nope"


async def test_bytes_that_are_gone_are_a_404_and_not_a_broken_download(gateway: Served, file_id: str) -> None:
    await gateway.objects.delete(await gateway.keys())
    response = await gateway.http.get(f"/v1/files/{file_id}/content")
    assert response.status_code == 404
    assert error_of(response)["message"] == NotFound(f"No such File object: {file_id}").message


async def test_a_download_that_breaks_off_is_seen_to_be_broken(gateway: Served, file_id: str) -> None:
    (key,) = await gateway.keys()
    await gateway.objects.put(key, CONTENT[:100])
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await gateway.http.get(f"/v1/files/{file_id}/content")


async def test_a_download_that_the_client_leaves_frees_the_store(gateway: Served) -> None:
    file_id = (await gateway.upload(LINE * 400_000)).json()["id"]
    (key,) = await gateway.keys()
    head = f"GET /v1/files/{file_id}/content HTTP/1.1\nhost: x\nauthorization: Bearer {KEY}\n\n"
    async with raw_request(gateway.port, head) as reader:
        await reader.readexactly(1000)
        assert descriptors_of(key) == 1
    await until(lambda: descriptors_of(key) == 0)


@given(size=st.integers(0, 50), first=st.none() | st.integers(0, 60), last=st.none() | st.integers(0, 60))
def test_a_range_is_a_slice(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert parse_range(header, size) is None
        return
    if first is None:
        expected = content[-last:] if last else b""
    else:
        expected = content[first:] if last is None else content[first : last + 1]
    try:
        found = parse_range(header, size)
    except RangeNotSatisfiable:
        assert expected == b""
    else:
        assert found is not None
        assert content[found.start : found.start + found.length] == expected != b""


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=1024) | st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "\r\n", "\x00", '"', "%22", "%", ";", "é", "😀", "\u202e", "a", " ", ".jsonl"]
    )
).map("".join)


@given(NAMES)
@example("")
@example("..")
@example("\r\nset-cookie: a=b")
@example("../../etc/passwd")
@example("C:\\con")
@example("😀" * 1024)
def test_any_name_makes_a_safe_header(name: str) -> None:
    header = content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 2000
    plain, _, encoded = header.partition("; filename*=UTF-8''")
    assert plain.count('"') == 2
    for shown in (plain.removeprefix('attachment; filename="').removesuffix('"'), unquote(encoded, errors="strict")):
        assert shown.strip(". ")
        assert not set(shown) & set("/\\\r\n\0")
        assert len(shown.encode()) <= 255 or not shown.isascii()
        assert shown.isprintable()


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\%."), min_size=1, max_size=100))
def test_an_ordinary_name_is_kept(name: str) -> None:
    assert unquote(content_disposition(name).partition("UTF-8''")[2]) == name


def test_a_long_name_keeps_its_extension() -> None:
    shown = unquote(content_disposition("x" * 1000 + ".jsonl").partition("UTF-8''")[2])
    assert shown.endswith(".jsonl")
    assert len(shown) < 150
