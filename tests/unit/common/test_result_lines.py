"""Result lines: their numbers, and several files of them back in the order of the input."""

import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.result_lines import line_number, merged_results, request_id

BATCH = "0123456789abcdef" * 2


def result(line: int, size: int = 0) -> bytes:
    return json.dumps({"id": request_id(BATCH, line), "custom_id": "x" * size}, separators=(",", ":")).encode()


async def stream(lines: list[bytes], closed: list[int] | None = None) -> AsyncGenerator[bytes, None]:
    try:
        for line in lines:
            yield line
    finally:
        if closed is not None:
            closed.append(1)


async def merge(*sources: list[bytes]) -> list[bytes]:
    chunks = [chunk async for chunk in merged_results([stream(source) for source in sources])]
    return b"".join(chunks).splitlines()


def test_a_lines_request_has_the_same_id_each_time() -> None:
    assert request_id("ab", 7) == "batch_req_ab00000007"


@pytest.mark.parametrize("line", [1, 50_000, 2**32 - 1, 2**32, 2**40])
def test_an_id_tells_its_line(line: int) -> None:
    assert line_number(result(line)) == line


@pytest.mark.parametrize("text", [b"", b"{}", b'{"id":"batch_req_1","custom_id":"a"}', b'{"id":"chatcmpl-1"}'])
def test_another_id_tells_none(text: bytes) -> None:
    assert line_number(text) is None


@given(owners=st.lists(st.integers(0, 3), max_size=60))
async def test_lines_come_back_in_input_order_whatever_file_they_are_in(owners: list[int]) -> None:
    lines = [result(number) for number in range(1, len(owners) + 1)]
    files = [[line for line, owner in zip(lines, owners, strict=True) if owner == file] for file in range(4)]
    assert await merge(*files) == lines


async def test_many_bytes_come_in_more_than_one_chunk() -> None:
    lines = [result(number, 100_000) for number in range(1, 11)]
    chunks = [chunk async for chunk in merged_results([stream(lines[::2]), stream(lines[1::2])])]
    assert len(chunks) > 2
    assert b"".join(chunks) == b"".join(line + b"\n" for line in lines)


async def test_a_line_with_another_id_stays_behind_the_one_before_it() -> None:
    strange = b'{"id":"other"}'
    assert await merge([result(1), strange, result(4)], [result(2), result(3)]) == [
        result(1),
        strange,
        result(2),
        result(3),
        result(4),
    ]


async def test_the_sources_are_closed_by_whoever_stops_early() -> None:
    closed: list[int] = []
    merging = merged_results([stream([result(n, 300_000) for n in range(1, 9)], closed), stream([result(9)], closed)])
    await anext(merging)
    await merging.aclose()
    assert closed == [1, 1]
