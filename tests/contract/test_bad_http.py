"""Whatever a client sends, the answer is an HTTP answer, errors are in the envelope, none is our fault."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.stack import MASTER_KEY

HOST = b"host: batchyard\r\n"
KEY = b"authorization: Bearer " + MASTER_KEY.encode() + b"\r\n"
JSON = b"content-type: application/json\r\n"
CLOSE = b"connection: close\r\n"
WISH = b'{"input_file_id": "file-nope", "endpoint": "/v1/chat/completions", "completion_window": "24h"}'


def request(method: str, target: bytes, fields: bytes = b"", body: bytes | None = None) -> bytes:
    length = b"" if body is None else b"content-length: %d\r\n" % len(body)
    head = b"%b %b HTTP/1.1\r\n" % (method.encode(), target)
    return head + HOST + KEY + fields + length + CLOSE + b"\r\n" + (body or b"")


def get(target: bytes, fields: bytes = b"") -> bytes:
    return request("GET", target, fields)


def create(body: bytes, fields: bytes = JSON, query: bytes = b"") -> bytes:
    return request("POST", b"/v1/batches" + query, fields, body)


def upload(body: bytes, content_type: bytes) -> bytes:
    return request("POST", b"/v1/files", b"content-type: " + content_type + b"\r\n", body)


def bare(line: bytes, *fields: bytes) -> bytes:
    return line + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


NO_HTTP = {
    "garbage": b"hello world\r\n\r\n",
    "the beginning of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": bare(b"FOO /v1/files HTTP/1.1", b"host: a"),
    "CONNECT": bare(b"CONNECT a:1 HTTP/1.1", b"host: a"),
    "NUL in the path": get(b"/v1/files/\x00"),
    "bytes in the path": get("/v1/files/ü".encode()),
    "a field without a name": bare(b"GET /v1/files HTTP/1.1", b"host: a", b"no name"),
    "a folded field": bare(b"GET /v1/files HTTP/1.1", b"host: a", b" folded: b"),
    "a length that is no number": bare(b"POST /v1/batches HTTP/1.1", b"host: a", b"content-length: abc"),
    "a negative length": bare(b"POST /v1/batches HTTP/1.1", b"host: a", b"content-length: -5"),
    "a length of 23 digits": bare(b"POST /v1/batches HTTP/1.1", b"host: a", b"content-length: " + b"9" * 23),
    "a length and chunks": bare(
        b"POST /v1/batches HTTP/1.1", b"host: a", b"content-length: 5", b"transfer-encoding: chunked"
    ),
    "an encoding that is not chunked": bare(b"POST /v1/batches HTTP/1.1", b"host: a", b"transfer-encoding: gzip"),
    "a chunk without a size": bare(b"POST /v1/batches HTTP/1.1", b"host: a", b"transfer-encoding: chunked") + b"zz\r\n",
}

# What the request is: status, param and code of the error.
REFUSED: dict[str, tuple[bytes, int, str | None, str | None]] = {
    "no URL of ours": (get(b"/"), 404, None, "unknown_url"),
    "a URL that climbs": (get(b"/v1/files/../../etc/passwd"), 404, None, "unknown_url"),
    "an encoded slash in an ID": (get(b"/v1/files/a%2Fb"), 404, None, "unknown_url"),
    "OPTIONS *": (request("OPTIONS", b"*"), 404, None, "unknown_url"),
    "a URL beyond the limit": (get(b"/v1/files/" + b"x" * 70_000), 431, None, "request_head_too_large"),
    "a header beyond the limit": (
        get(b"/v1/files", b"x-a: %b\r\n" % (b"x" * 70_000)),
        431,
        None,
        "request_head_too_large",
    ),
    "headers beyond the limit": (get(b"/v1/files", b"x-a: b\r\n" * 20_000), 431, None, "request_head_too_large"),
    "OPTIONS": (request("OPTIONS", b"/v1/files"), 405, None, "method_not_supported"),
    "PROPFIND": (request("PROPFIND", b"/v1/files"), 405, None, "method_not_supported"),
    "bytes that are no UTF-8 as an ID": (get(b"/v1/files/%ff%fe"), 404, "id", None),
    "half a character as an ID": (get(b"/v1/files/%ed%a0%80"), 404, "id", None),
    "NUL as an ID": (get(b"/v1/batches/%00"), 404, "id", None),
    "a broken escape as an ID": (get(b"/v1/files/%zz"), 404, "id", None),
    "an absurdly long ID": (get(b"/v1/files/" + b"x" * 60_000), 404, "id", None),
    "a long ID beyond ASCII": (get(b"/v1/batches/" + b"%C3%BC" * 2000), 404, "id", None),
    "bytes as a model": (get(b"/v1/models/%ff"), 404, "model", "model_not_found"),
    "bytes as a purpose": (get(b"/v1/files?purpose=%ff"), 400, "purpose", None),
    "NUL to begin a page after": (get(b"/v1/files?after=%00"), 400, "after", "invalid_value"),
    "a long ID to begin a page after": (get(b"/v1/files?after=" + b"x" * 9000), 400, "after", "invalid_value"),
    "no number as a limit": (get(b"/v1/batches?limit=%ff"), 400, "limit", "invalid_type"),
    "a limit of 30 digits": (get(b"/v1/batches?limit=" + b"9" * 30), 400, "limit", "integer_above_max_value"),
    "NUL as a group": (get(b"/spend/summary?group_by=%00"), 400, "group_by", "invalid_value"),
    "a day beyond the calendar": (get(b"/spend/logs?end_date=9999-12-31"), 400, "end_date", "invalid_value"),
    "no key": (bare(b"GET /v1/files HTTP/1.1", b"host: a", b"connection: close"), 401, None, None),
    "no headers at all": (b"GET /v1/files\r\n\r\n", 401, None, None),
    "a key of bytes": (
        bare(b"GET /v1/files HTTP/1.1", b"host: a", b"authorization: Bearer \xff\xfe", b"connection: close"),
        401,
        None,
        "invalid_api_key",
    ),
    "another scheme than Bearer": (
        bare(b"GET /v1/files HTTP/1.1", b"host: a", b"authorization: Basic abc", b"connection: close"),
        401,
        None,
        None,
    ),
    "no JSON": (create(b"{"), 400, None, "invalid_json"),
    "no body": (create(b""), 400, None, "invalid_json"),
    "an array": (create(b"[]"), 400, None, "invalid_type"),
    "JSON that is no UTF-8": (create(b'{"input_file_id": "\xff"}'), 400, None, "invalid_json"),
    "JSON in UTF-16": (create(WISH.decode().encode("utf-16")), 400, None, "invalid_json"),
    "half a character in JSON": (create(WISH.replace(b"file-nope", b"\\ud800")), 400, None, "invalid_json"),
    "NaN": (create(b'{"input_file_id": NaN}'), 400, "input_file_id", "invalid_type"),
    "JSON a hundred thousand deep": (create(b"[" * 100_000), 400, None, "invalid_json"),
    "a number of 5000 digits": (create(b'{"input_file_id": %b}' % (b"9" * 5000)), 400, None, "invalid_json"),
    "JSON of two megabytes": (create(WISH.replace(b"}", b', "a": "%b"}' % (b"x" * 2_000_000))), 413, None, None),
    "a compressed body": (
        create(b"\x1f\x8b\x08", JSON + b"content-encoding: gzip\r\n"),
        415,
        "Content-Encoding",
        "unsupported_content_encoding",
    ),
    "a form where JSON belongs": (
        create(b"a=b", b"content-type: application/x-www-form-urlencoded\r\n"),
        400,
        None,
        "invalid_json",
    ),
    "JSON that is called text": (create(WISH, b"content-type: text/plain\r\n"), 404, "id", None),
    "JSON that is called nothing": (create(WISH, b""), 404, "id", None),
    "NUL in an ID": (create(WISH.replace(b"nope", b"\\u0000")), 404, "id", None),
    "two models in the query": (create(WISH, query=b"?model=a&model=b"), 400, "model", None),
    "bytes as a model in the query": (create(WISH, query=b"?model=%ff"), 404, "id", None),
    "an expectation that nobody knows": (
        create(b"{}", b"expect: 200-ok\r\n"),
        400,
        "endpoint",
        "missing_required_parameter",
    ),
    "JSON where a form belongs": (upload(b"{}", b"application/json"), 400, None, None),
    "a form without a boundary": (upload(b"x", b"multipart/form-data"), 400, None, None),
    "a form with a boundary of bytes": (upload(b"x", b"multipart/form-data; boundary=\xff"), 400, None, None),
    "an empty form": (upload(b"", b"multipart/form-data; boundary=a"), 400, None, None),
    "a body where none belongs": (request("POST", b"/v1/batches/batch_nope/cancel", JSON, b"garbage"), 404, "id", None),
    "a range of bytes that are no digits": (
        get(b"/v1/files/file-nope/content", b"range: bytes=\xff-\r\nif-none-match: \xff\r\n"),
        404,
        "id",
        None,
    ),
}

ANSWERED = {
    "HTTP/1.0": bare(b"GET /v1/batches?limit=1 HTTP/1.0", b"authorization: Bearer " + MASTER_KEY.encode()),
    "an absolute URL": get(b"http://elsewhere/v1/batches?limit=1"),
    "a model header of bytes": get(b"/v1/batches?limit=1", b"x-litellm-model: \xff\xfe\r\n"),
    "an upgrade that nobody offers": get(b"/v1/batches?limit=1", b"upgrade: websocket\r\nconnection: upgrade\r\n"),
    "bytes in filters": get(b"/spend/logs?batch_id=%00&model=%ff"),
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in the envelope, which holds nothing else."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        document = json.loads(self.body)
        assert list(document) == ["error"]
        error: dict[str, Any] = document["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error


@pytest.fixture
def connection(base_url: str) -> Iterator[socket.socket]:
    address = urlsplit(base_url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        yield connection


def exchange(connection: socket.socket, data: bytes) -> Answer:
    """Send these bytes, and read until the other side hangs up."""
    received = b""
    try:
        connection.sendall(data)
        while chunk := connection.recv(65_536):
            received += chunk
    except (ConnectionResetError, BrokenPipeError):
        pass  # refused before all of it was read; what was answered is here already
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    return Answer(int(status.split()[1]), dict(field.split(": ", 1) for field in fields), body)


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_refused_and_hung_up_on(connection: socket.socket, data: bytes) -> None:
    answer = exchange(connection, data)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert answer.error["message"].startswith("Invalid HTTP request received.")


@pytest.mark.parametrize(("data", "status", "param", "code"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused(
    connection: socket.socket, data: bytes, status: int, param: str | None, code: str | None
) -> None:
    answer = exchange(connection, data)
    error = answer.error
    assert (answer.status, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("data", ANSWERED.values(), ids=ANSWERED)
def test_what_is_merely_odd_is_answered(connection: socket.socket, data: bytes) -> None:
    answer = exchange(connection, data)
    assert answer.status == 200
    assert json.loads(answer.body)["object"] == "list"


@pytest.mark.parametrize("path", [b"/v1/files", b"/v1/batches/batch_nope"])
def test_head_is_refused_without_a_body(connection: socket.socket, path: bytes) -> None:
    answer = exchange(connection, request("HEAD", path))
    assert (answer.status, answer.body) == (405, b"")
    assert "GET" in answer.headers["allow"]
