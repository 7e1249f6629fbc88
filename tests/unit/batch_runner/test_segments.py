"""Results between the model server and the output file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.batch_runner.lines import Tokens
from batchyard.batch_runner.segments import (
    ERROR_KINDS,
    MERGE_WIDTH,
    OUTPUT_KINDS,
    Kind,
    Result,
    compacted,
    decode_result,
    encode_result,
    merged,
    texts,
)
from batchyard.common.objects import LocalObjectStore, read_lines

results = st.builds(
    Result,
    line=st.integers(1, 10**9),
    kind=st.sampled_from(Kind),
    tokens=st.builds(Tokens, *(st.integers(0, 10**6) for _ in range(4))),
    deployment=st.none() | st.text(min_size=1, max_size=20),
    text=st.binary(max_size=60).filter(lambda text: b"\n" not in text),
    busy=st.integers(0, 10**12),
    model=st.none() | st.text(min_size=1, max_size=20),
)


def result(line: int, kind: Kind = Kind.COMPLETED, text: bytes | None = None) -> Result:
    return Result(line, kind, Tokens(), "d", text if text is not None else b"%d" % line)


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path)


@given(results)
def test_a_result_survives_its_segment(original: Result) -> None:
    encoded = encode_result(original)
    assert encoded.endswith(b"\n")
    assert decode_result(encoded[:-1]) == original


def test_a_segment_from_before_there_was_a_time_is_read() -> None:
    assert decode_result(b'7 c 1,2,3,4 d=2Fe {"id": 1}') == Result(
        7, Kind.COMPLETED, Tokens(1, 2, 3, 4), "d/e", b'{"id": 1}'
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), start=st.integers(0, 100), length=st.none() | st.integers(0, 100))
async def test_lines_of_a_range(store: LocalObjectStore, content: bytes, start: int, length: int | None) -> None:
    await store.put("x", content)
    part = content[start:] if length is None else content[start : start + length]
    expected = part.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [line async for line in read_lines(store, "x", start=start, length=length)] == expected


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(1, 30)), max_size=5), st.sets(st.integers(1, 30)))
async def test_merging_gives_each_line_once_in_order(
    store: LocalObjectStore, segments: list[set[int]], memory: set[int]
) -> None:
    keys = []
    for number, lines in enumerate(segments):
        keys.append(f"segment-{number}")
        encoded = b"".join(encode_result(result(line, text=b"s%d" % number)) for line in sorted(lines))
        await store.put(keys[-1], encoded)
    found = [item async for item in merged(store, keys, [result(line, text=b"m") for line in sorted(memory)])]
    assert [item.line for item in found] == sorted(set().union(*segments, memory))
    for item in found:
        first = next((b"s%d" % n for n, lines in enumerate(segments) if item.line in lines), b"m")
        assert item.text == first


async def test_many_segments_become_few_without_changing_what_counts(store: LocalObjectStore) -> None:
    keys = [f"segment-{number:03d}" for number in range(3 * MERGE_WIDTH**2 // 2)]
    for number, key in enumerate(keys):
        own = result(number * 2 + 1, text=b"own")
        shared = result(10**6, text=b"%d" % number)
        await store.put(key, encode_result(own) + encode_result(shared))
    few = await compacted(store, keys, "merged")
    assert len(few) <= MERGE_WIDTH
    found = [item async for item in merged(store, few, ())]
    assert [item.line for item in found] == [number * 2 + 1 for number in range(len(keys))] + [10**6]
    assert found[-1].text == b"0", "the first segment's result counts"


async def test_parts_hold_the_lines_of_their_kinds() -> None:
    async def stream() -> AsyncIterator[Result]:
        for line, kind in enumerate((Kind.COMPLETED, Kind.FAILED, Kind.NOT_RUN, Kind.COMPLETED), 1):
            yield result(line, kind)

    assert b"".join([chunk async for chunk in texts(stream(), OUTPUT_KINDS)]) == b"1\n4\n"
    assert b"".join([chunk async for chunk in texts(stream(), ERROR_KINDS)]) == b"2\n3\n"
