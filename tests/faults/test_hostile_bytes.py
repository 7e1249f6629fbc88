"""Inputs that nobody sends by accident: bounded memory, a clear error with its line, no crash."""

import json
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchyard.batch_runner.plan import Plan, Planner, Rejection
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.validate import LineRules
from batchyard.common.objects import LocalObjectStore

MIB = 1024 * 1024
BUDGET = 24 * MIB
RULES = LineRules(endpoint="/v1/chat/completions", max_line_bytes=RunnerSettings().max_line_bytes)


def request(custom_id: str, content: str = "hi") -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()


async def repeated(block: bytes, times: int, *, before: bytes = b"", after: bytes = b"") -> AsyncIterator[bytes]:
    """A file of any size, made as it is read."""
    yield before
    for _ in range(times):
        yield block
    yield after


async def plan(directory: Path, content: AsyncIterator[bytes]) -> tuple[Plan | Rejection, int]:
    """The verdict on an input, and the most memory that it took to reach it."""
    store = LocalObjectStore(directory)
    await store.put("in", content)

    async def pool_of(model: str) -> str | None:
        return model if model == "m" else None

    tracemalloc.start()
    try:
        verdict = await Planner(RunnerSettings(), RULES, None, pool_of).plan(store, "in")
        return verdict, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        await store.close()


def problems(verdict: Plan | Rejection) -> list[tuple[str, int | None]]:
    assert isinstance(verdict, Rejection)
    return [(problem.code, problem.line) for problem in verdict.problems]


async def test_a_line_of_a_hundred_megabytes(tmp_path: Path) -> None:
    content = repeated(b"x" * MIB, 100, before=request("a") + b"\n", after=b"\n" + request("b"))
    verdict, memory = await plan(tmp_path, content)
    assert problems(verdict) == [("line_too_large", 2)]
    assert memory < RULES.max_line_bytes + BUDGET


async def test_no_newline_at_all(tmp_path: Path) -> None:
    verdict, memory = await plan(tmp_path, repeated(b"\x00" * MIB, 64))
    assert problems(verdict) == [("line_too_large", 1)]
    assert memory < RULES.max_line_bytes + BUDGET


async def test_ten_million_empty_lines(tmp_path: Path) -> None:
    content = repeated(b"\n" * 1_000_000, 10, after=request("a") + b"\n")
    verdict, memory = await plan(tmp_path, content)
    assert isinstance(verdict, Plan)
    assert [(shard.first_line, shard.requests) for shard in verdict.table.shards] == [(10_000_001, 1)]
    assert memory < BUDGET


async def test_a_million_bad_lines_end_the_reading_early(tmp_path: Path) -> None:
    verdict, memory = await plan(tmp_path, repeated(b"{\n" * 100_000, 10))
    assert problems(verdict) == [
        *(("invalid_json_line", line) for line in range(1, 101)),
        ("too_many_problems", None),
    ]
    assert memory < BUDGET


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\x00", "invalid_json_line"),
        (request("a") + b"\x00", "invalid_json_line"),
        (b"\xef\xbb\xbf" + request("a"), "invalid_json_line"),
        (request("a").replace(b"hi", b"\xc3\x28"), "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid_json_line"),
        (b'{"custom_id":"\\ud800","method":"POST","url":"/v1/chat/completions","body":{}}', "invalid_json_line"),
        (request("a").replace(b'"hi"', b"NaN"), "invalid_json_line"),
        (b'{"custom_id": 1e999999, "method": "POST", "url": "/v1/chat/completions", "body": {}}', None),
        (request("x" * 600), "invalid_custom_id"),
        (b"null", "invalid_json_line"),
        (b'"' + b"\\" * 1001, "invalid_json_line"),
    ],
)
async def test_a_hostile_line_is_named(tmp_path: Path, line: bytes, code: str | None) -> None:
    verdict, _ = await plan(tmp_path, repeated(b"", 0, before=request("good") + b"\n", after=line))
    found = problems(verdict)
    assert len(found) == 1
    assert found[0][1] == 2
    assert code in (None, found[0][0])


async def test_huge_numbers_pass_through_untouched(tmp_path: Path) -> None:
    line = request("a").replace(b'"hi"', b"9" * 5000)
    verdict, _ = await plan(tmp_path, repeated(b"", 0, after=line))
    assert isinstance(verdict, Plan)


async def test_a_member_that_stands_twice_is_read_the_same_way_twice(tmp_path: Path) -> None:
    line = request("a").replace(b'"method"', b'"custom_id": 7, "custom_id": "b", "method"')
    verdict, _ = await plan(tmp_path, repeated(b"", 0, after=line))
    assert isinstance(verdict, Plan)
