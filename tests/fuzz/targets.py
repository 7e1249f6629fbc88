"""What must hold for any bytes at all. A target raises when it does not."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from batchyard.batch_runner.lines import body_for, named_model, one_line_json, read_answer, read_request
from batchyard.batch_runner.plan import raw_lines
from batchyard.batch_runner.validate import LineRules, check_line
from batchyard.common import subjects
from batchyard.common.errors import InvalidRequest
from batchyard.common.ids import decode_id, encode_id
from batchyard.gateway.downloads import content_disposition
from batchyard.gateway.multipart import MultipartDecoder, PartBegan, parse_disposition

RULES = LineRules(endpoint="/v1/chat/completions", max_line_bytes=4096)
BOUNDARY = b"b"


def line(data: bytes) -> None:
    """A line that passes the checks can be sent, with another model's name and nothing else changed."""
    checked = check_line(1, data, RULES)
    assert (checked.problem is None) is (checked.custom_id is not None)
    if checked.problem is not None:
        assert checked.problem.line == 1
        return
    request = read_request(data)
    assert json.loads(bytes(request.custom_id)) == checked.custom_id
    if checked.model is not None:
        assert named_model(request) == checked.model
    sent = json.loads(body_for(request, "another"))
    assert sent == {**json.loads(bytes(request.body)), "model": "another"}


def planner(data: bytes) -> None:
    """However a file is cut into chunks, its lines are the same, and none is kept beyond the limit."""
    size = data[0] % 64 + 1 if data else 1
    content = data[1:]
    lines = _run(_collect(raw_lines(_chunks(content, size), RULES.max_line_bytes)))
    expected = [(number, text) for number, text in enumerate(content.split(b"\n"), 1) if text]
    assert [(found.number, found.size) for found in lines] == [(number, len(text)) for number, text in expected]
    for found, (_, text) in zip(lines, expected, strict=True):
        assert found.text == text[: RULES.max_line_bytes + 1]
        assert content[found.offset : found.end].rstrip(b"\n") == text


def answer(data: bytes) -> None:
    """Whatever a server answers, its result line is one line of JSON."""
    read = read_answer(data)
    if read is not None:
        assert data.strip()[:1] == b"{"
        json.loads(data)
        assert min(read.tokens.prompt, read.tokens.cached, read.tokens.output, read.tokens.reasoning) >= 0
    quoted = one_line_json(data)
    assert b"\n" not in quoted
    json.loads(quoted)


def ids(data: bytes) -> None:
    """Any text is the ID of something; a decoded one encodes to one that says the same."""
    text = data.decode(errors="replace")
    found = decode_id(text)
    if found.model is not None:
        kind: Any = "file" if text.startswith("file-") else "batch"
        assert decode_id(encode_id(kind, found.raw, found.model)) == found


def tokens(data: bytes) -> None:
    """Every text is a subject token, or is refused; nothing else decodes to it."""
    text = data.decode(errors="replace")
    try:
        token = subjects.encode_token(text)
    except ValueError:
        assert not text or len(text.encode()) * 3 > subjects.MAX_TOKEN
    else:
        assert not set(token) & set(" .*>\t\r\n")
        assert subjects.decode_token(token) == text
    try:
        decoded = subjects.decode_token(text)
    except ValueError:
        return
    assert subjects.encode_token(decoded) == text


def multipart(data: bytes) -> None:
    """A form is understood the same in whatever pieces it comes, or refused."""
    size = data[0] % 64 + 1 if data else 1
    body = b"--b\r\n" + data[1:] + b"\r\n--b--\r\n"
    whole, pieces = _events(body, len(body)), _events(body, size)
    assert whole == pieces


def disposition(data: bytes) -> None:
    """A part's name and file name are clean, and the file name can stand in a header again."""
    try:
        part = parse_disposition(data)
    except InvalidRequest:
        return
    assert part.name.encode()
    if part.filename is not None:
        header = content_disposition(part.filename)
        assert header.isascii()
        assert header.isprintable()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (line, planner, answer, ids, tokens, multipart, disposition)
}

_BODY = rb'{"model":"m","stream":false,"n":1e400,"a":[-0.0,"\u0000\ud83d\ude00"],"messages":[{"role":"user"}],"n":2}'
SEEDS: dict[str, tuple[bytes, ...]] = {
    "line": (
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":' + _BODY + b"}",
        '\ufeff{"body":{},"url":"/chat/completions","method":"POST","custom_id":"\u00e9\u2028"}'.encode(),
    ),
    "planner": (b"\x02a\n\n\r\nb\n\n\nc", b"\x01" + b"x" * 5000 + b"\ny"),
    "answer": (
        b'{"choices":[{"finish_reason":"abort"}],"usage":{"prompt_tokens":3,"completion_tokens":1e3}}',
        b'{"choices":{},"usage":{"prompt_tokens":3}x',
        b'{"choices":{},"usage":0,"x":}',
        b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":null}}}',
        b'{"usage":{"input_tokens":-1,"output_tokens":"x"},\n"choices":{}}',
    ),
    "ids": (encode_id("file", "file-abc", "a;b%c").encode(), encode_id("batch", "batch_1", "hosted_vllm/m").encode()),
    "tokens": ("a.b/ü".encode(), b"a=2Eb=2F=C3=BC", b"=2e"),
    "multipart": (b'\x03Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n--b\r\n',),
    "disposition": (
        b'form-data; name="file"; filename="a\\"%22.jsonl"; filename*=UTF-8\'\'%e2%82%ac.jsonl',
        b"form-data; name=\"a\"; filename*=\0'x'%00",
        b"form-data; name*=unicode_escape''%5Cud800",
        b"form-data; name*=0a; nAme*1*=utf-8'x'%00",
        b"form-data; name*0=a; name*1*=utf-8'x'%00; filename=\"../..\\x\"",
    ),
}
"""Where mutation begins: JSON and headers are read by code that no coverage is known of."""


def _events(body: bytes, size: int) -> tuple[list[PartBegan], bool] | None:
    decoder = MultipartDecoder(BOUNDARY)
    heads: list[PartBegan] = []
    try:
        for begin in range(0, len(body), size):
            heads += [event for event in decoder.feed(body[begin : begin + size]) if isinstance(event, PartBegan)]
    except InvalidRequest:
        return None
    return heads, decoder.is_complete


async def _chunks(content: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def _collect(lines: AsyncIterator[Any]) -> list[Any]:
    return [found async for found in lines]


def _run(coroutine: Any) -> Any:
    """The result of a coroutine that never waits: no event loop for each of a million inputs."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waited")
