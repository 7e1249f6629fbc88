"""Bodies that no route should have to think about: compressed, slow, endless, malformed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from unit.gateway.rig import BOUNDARY, FORM, KEY, LINE, Served, Start, error_of, form, raw_request

PURPOSE = ('name="purpose"', b"batch")
FILE = ('name="file"; filename="in.jsonl"', LINE)
PATHS = ["/v1/files", "/v1/uploads", "/v1/uploads/upload_x/parts", "/v1/uploads/upload_x/complete", "/v1/batches"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_compressed_body_is_a_415(gateway: Served, path: str) -> None:
    for encoding in ("gzip", "identity, br", "Deflate"):
        response = await gateway.send_form(b"x", path=path, **{"content-encoding": encoding})
        assert response.status_code == 415
        assert response.headers["accept-encoding"] == "identity"
        error = error_of(response)
        assert (error["param"], error["code"]) == ("Content-Encoding", "unsupported_content_encoding")
        assert encoding.rpartition(" ")[2] in error["message"]
    assert await gateway.keys() == []


async def test_a_body_that_says_it_is_as_it_is_is_taken(gateway: Served) -> None:
    response = await gateway.send_form(form(PURPOSE, FILE), **{"content-encoding": "Identity"})
    assert response.status_code == 200


def head(path: str, content_type: str) -> str:
    return f"""POST {path} HTTP/1.1
host: gateway
authorization: Bearer {KEY}
content-type: {content_type}
content-length: 1000

"""


@pytest.mark.parametrize("path", ["/v1/uploads", "/v1/batches"])
async def test_a_json_body_that_stops_is_a_408_and_the_connection_ends(start: Start, path: str) -> None:
    gateway = await start(read_timeout=0.1)
    async with raw_request(gateway.port, head(path, "application/json"), b'{"bytes":') as reader:
        answer = await asyncio.wait_for(reader.read(), timeout=10)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer
    assert b'"code":"request_timeout"' in answer


@pytest.mark.parametrize(("path", "content_type"), [("/v1/uploads", "application/json"), ("/v1/files", FORM)])
async def test_a_body_that_trickles_is_a_408(services: object, start: Start, path: str, content_type: str) -> None:
    gateway = await start(read_timeout=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head(path, content_type).replace("\n", "\r\n").encode() + form(PURPOSE, FILE)[:-40])
    status = asyncio.create_task(reader.readline())
    async with asyncio.timeout(10):
        while not status.done():
            writer.write(b" ")
            await asyncio.sleep(0.02)
    assert status.result().startswith(b"HTTP/1.1 408")
    assert b"too slowly" in await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_comes_as_fast_as_it_may_is_taken_however_long_it_takes(
    services: object, start: Start
) -> None:
    gateway = await start(read_timeout=0.2)

    async def slowly() -> AsyncIterator[bytes]:
        yield form(PURPOSE, ('name="file"; filename="in.jsonl"', b"")).partition(f"\r\n--{BOUNDARY}--".encode())[0]
        for _ in range(20):
            yield LINE * 50
            await asyncio.sleep(0.03)
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    response = await gateway.http.post("/v1/files", content=slowly(), headers={"content-type": FORM})
    assert response.json()["bytes"] == 1000 * len(LINE)


async def test_a_part_that_stops_is_a_408(services: object, start: Start) -> None:
    gateway = await start(read_timeout=0.2)
    upload_id = (await gateway.announce(1)).json()["id"]
    path = f"/v1/uploads/{upload_id}/parts"
    async with raw_request(gateway.port, head(path, FORM), form(('name="data"', b"x"))[:-10]) as reader:
        answer = await asyncio.wait_for(reader.read(), timeout=10)
    assert answer.startswith(b"HTTP/1.1 408")
    assert await gateway.keys() == []


async def test_a_json_body_too_large_is_a_413(start: Start) -> None:
    gateway = await start(max_body_bytes=100)

    async def chunked() -> AsyncIterator[bytes]:
        yield b" " * 101

    for content in (b" " * 101, chunked()):
        response = await gateway.http.post("/v1/uploads", content=content)
        assert response.status_code == 413
        assert error_of(response)["message"] == "The request body is too large: at most 100 bytes are accepted."


def part_with_headers(headers: bytes) -> bytes:
    return f"--{BOUNDARY}\r\n".encode() + headers + b"\r\n\r\nx\r\n" + f"--{BOUNDARY}--\r\n".encode()


DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="in.jsonl"'
MALFORMED = {
    "many headers": part_with_headers(b"\r\n".join([DISPOSITION, *[b"x: y"] * 1000])),
    "a long header": part_with_headers(DISPOSITION + b"\r\nx: " + b"y" * 100_000),
    "a long name": part_with_headers(DISPOSITION.replace(b"in.jsonl", b"x" * 100_000)),
    "no header": part_with_headers(b""),
    "a header that is none": part_with_headers(DISPOSITION + b"\r\n\x00\x01: y"),
    "another boundary": form(PURPOSE, FILE).replace(BOUNDARY.encode(), b"another"),
    "nothing": b"",
    "only the end": f"--{BOUNDARY}--\r\n".encode(),
    "no final boundary": form(PURPOSE, FILE).removesuffix(f"--{BOUNDARY}--\r\n".encode()),
    "no form at all": LINE * 100,
    "a charset that is none": form(("name*=idna''%FF", b"x"), FILE, PURPOSE),
    "a name that is no text": form(("name*=unicode_escape''%5Cud800", b"x" * 70_000), FILE),
    "a name that is no UTF-8": form(("name*=utf-8''%ff%ed%a0%80", b"x" * 70_000), FILE),
    "half a character": form(("name*=utf-7''%2B2AA-", b"x" * 70_000), FILE),
}


@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/{}/parts"])
async def test_a_malformed_form_is_a_400_that_leaves_nothing(
    gateway: Served, path: str, subtests: pytest.Subtests
) -> None:
    upload_id = (await gateway.announce(1)).json()["id"]
    for name, body in MALFORMED.items():
        with subtests.test(name):
            response = await gateway.send_form(body, path=path.format(upload_id))
            if name == "a charset that is none" and path == "/v1/files":
                assert response.status_code == 200  # a field that nobody knows is ignored
                await gateway.http.delete(f"/v1/files/{response.json()['id']}")
                continue
            assert response.status_code == 400
            assert error_of(response)["message"]
            assert await gateway.keys() == []


async def test_a_body_that_goes_on_after_the_form_is_refused(gateway: Served) -> None:
    small, large = b"\r\n" * 100, b"x" * 100_000
    assert (await gateway.send_form(form(PURPOSE, FILE), small)).status_code == 200
    (key,) = await gateway.keys()
    response = await gateway.send_form(form(PURPOSE, FILE), small, large, large)
    assert response.status_code == 400
    assert error_of(response)["message"] == "The request body goes on after the end of the form."
    assert await gateway.keys() == [key]
