"""What a server with a Batch API says, as it is understood here."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from batchyard.batch_runner.lines import Tokens
from batchyard.batch_runner.native.collect import Collection, Counts, Missing, joined
from batchyard.batch_runner.native.documents import (
    Refusal,
    UpstreamBatch,
    line_of,
    read_refusal,
    read_result,
)
from batchyard.batch_runner.native.outcome import missing
from batchyard.batch_runner.segments import Kind
from batchyard.batch_runner.shard import ShardRange
from batchyard.batch_runner.shard_input import ShardInput
from batchyard.batch_runner.stop import Stop
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.objects import LocalObjectStore
from batchyard.common.result_lines import request_id

from .conftest import chat_line

HEX = "ab" * 16
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def result_line(number: int, **members: Any) -> bytes:
    response = {"status_code": 200, "request_id": "r", "body": {"usage": USAGE}}
    line = {"id": "theirs", "custom_id": request_id(HEX, number), "response": response, "error": None, **members}
    return json.dumps(line).encode()


@pytest.mark.parametrize(
    ("members", "kind", "tokens"),
    [
        ({}, Kind.COMPLETED, Tokens(7, 0, 2, 0)),
        ({"response": {"status_code": 201, "body": []}}, Kind.COMPLETED, Tokens()),
        ({"response": {"status_code": 400, "body": {"error": {"message": "no"}}}}, Kind.FAILED, Tokens()),
        ({"response": None, "error": {"code": "request_timeout", "message": "slow"}}, Kind.FAILED, Tokens()),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, None, None),
        ({"response": None, "error": {"code": "batch_cancelled", "message": "late"}}, None, None),
        ({"response": None}, None, None),
        ({"response": {"body": {}}}, None, None),
        ({"response": "fine"}, None, None),
        ({"custom_id": "somebody-elses"}, None, None),
        ({"custom_id": request_id("cd" * 16, 5)}, None, None),
        ({"custom_id": request_id(HEX, 5) + "0"}, None, None),
        ({"custom_id": 5}, None, None),
    ],
)
def test_a_result_line_says_what_became_of_its_request(members: Any, kind: Kind | None, tokens: Tokens | None) -> None:
    result = read_result(result_line(5, **members), HEX, "d")
    if kind is None:
        assert result is None
    else:
        assert result is not None
        assert (result.line, result.kind, result.tokens, result.deployment) == (5, kind, tokens, "d")


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b'{"custom_id":"\xff"}', b'{"a":' * 2000])
def test_what_is_no_result_line_is_passed_over(text: bytes) -> None:
    assert read_result(text, HEX, "d") is None


def test_the_servers_answer_keeps_its_bytes() -> None:
    raw = b'{"status_code": 200,"request_id":"x","body":{"n":1.50e3,"t":"\xc3\xa9\\u00e9"}}'
    line = b'{"custom_id":"%b","response":%b}' % (request_id(HEX, 3).encode(), raw)
    result = read_result(line, HEX, "d")
    assert result is not None
    assert result.text == b'"response":%b,"error":null}' % raw


@pytest.mark.parametrize("number", [1, 50_000, 2**32 - 1, 2**32])
def test_a_line_is_known_by_the_id_of_its_result(number: int) -> None:
    assert line_of(request_id(HEX, number), HEX) == number


@pytest.mark.parametrize(
    ("document", "completed", "failed", "is_over"),
    [
        ({"status": "in_progress", "request_counts": {"total": 9, "completed": 4, "failed": 1}}, 4, 1, False),
        ({"status": "finalizing", "request_counts": None}, 0, 0, False),
        ({"status": "some_new_one", "request_counts": {"completed": -1, "failed": 2.0}}, 0, 2, False),
        ({"status": "completed", "errors": {"object": "list", "data": None}}, 0, 0, True),
        ({"status": "failed", "errors": None}, 0, 0, True),
        ({"status": "expired"}, 0, 0, True),
        ({"status": "cancelled"}, 0, 0, True),
        ({"status": "cancelling"}, 0, 0, False),
    ],
)
def test_a_batch_is_read_whatever_it_leaves_out(document: Any, completed: int, failed: int, is_over: bool) -> None:
    batch = msgspec.json.decode(json.dumps({"id": "b", **document}), type=UpstreamBatch)
    assert (batch.completed, batch.failed, batch.is_over, batch.problems) == (completed, failed, is_over, ())


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"error":{"message":"No.","code":"too_many","param":"x"}}', "too_many", "No."),
        (b'{"error":{"message":"No.","code":404}}', "upstream_error", "No."),
        (b'{"error":"Unauthorized"}', "upstream_error", "Unauthorized"),
        (b'{"detail":"Not Found"}', "upstream_error", "Not Found"),
        (b"<html>", "upstream_error", "<html>"),
        (b"", "upstream_error", "no reason was given"),
    ],
)
def test_a_refusal_is_understood_or_quoted(body: bytes, code: str, message: str) -> None:
    refusal = read_refusal(404, body)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.message) == (404, code, message)


def ended(status: str) -> UpstreamBatch:
    return UpstreamBatch(id="b", status=status)


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        (missing(None, (), ended("completed")), Kind.FAILED, "upstream_no_answer"),
        (missing(None, (), ended("expired")), Kind.FAILED, "upstream_expired"),
        (missing(None, (), ended("cancelled")), Kind.FAILED, "upstream_cancelled"),
        (missing(None, (), ended("failed")), Kind.FAILED, "upstream_failed"),
        (missing(None, (), None), Kind.FAILED, "upstream_lost"),
        (missing(Stop.CANCELLED, (), ended("completed")), Kind.NOT_RUN, "batch_cancelled"),
        (missing(Stop.EXPIRED, (), None), Kind.NOT_RUN, "batch_expired"),
        (missing(None, (BatchProblem(code="c", message="m"),), ended("failed")), Kind.FAILED, "upstream_refused"),
    ],
)
def test_a_line_without_an_answer_says_why(said: Missing, kind: Kind, code: str) -> None:
    assert (said.kind, said.code) == (kind, code)


def test_a_line_that_the_server_had_something_against_says_that() -> None:
    said = missing(None, (BatchProblem(code="c", message="m", line=4),), ended("failed"))
    assert b'"error":{"code":"c","message":"m"}' in said.result(4, "i", b'"x"').text
    assert b'"error":{"code":"upstream_refused"' in said.result(5, "i", b'"x"').text


async def test_every_line_stands_once_in_order_however_the_answers_come(tmp_path: Any) -> None:
    store = LocalObjectStore(tmp_path)
    content = b"\n\n".join(chat_line(f"r{n}", "q") for n in range(20))
    await store.put("input", content)
    shard = ShardInput("input", ShardRange(0, len(content), 1, 20), 0, "work/", "a", HEX, "/v1/x", "m", "m")
    numbers = [*range(39, 20, -2), *range(1, 20, 2)]
    numbers.remove(7)

    async def file() -> AsyncIterator[bytes]:
        for number in numbers:
            yield result_line(number) + b"\n"
        yield result_line(39, response={"status_code": 500, "body": {}}) + b"\n\n"  # a second answer
        yield result_line(2) + b"\n"  # a line that is blank in the input
        yield b"x" * 5000 + b"\nnonsense\n"

    collection = Collection(store, "work/c", HEX, "d", memory_bytes=400, line_bytes=4000)
    await collection.take(file())
    await collection.store()
    assert len(collection.segments) > 2
    assert collection.foreign == 2
    counts = Counts()
    said = missing(None, (), ended("completed"))
    results = [result async for result in joined(store, shard, collection.segments, said, counts)]
    assert [result.line for result in results] == list(range(1, 40, 2))
    assert [json.loads(result.text)["custom_id"] for result in results] == [f"r{n}" for n in range(20)]
    assert (counts.by_kind[Kind.COMPLETED], counts.by_kind[Kind.FAILED]) == (19, 1)
    assert counts.usage.total_tokens == 19 * 9
