"""The look at a file's first line."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.errors import InvalidRequest
from batchyard.common.first_line import FirstLine


def judge(content: bytes, cuts: list[int], max_bytes: int = 1000) -> str | None:
    """The code of what is wrong with a file that comes in these pieces."""
    first_line = FirstLine(max_bytes)
    edges = [0, *sorted(cuts), len(content)]
    for begin, end in itertools.pairwise(edges):
        first_line.feed(content[begin:end])
    first_line.end()
    try:
        first_line.check()
    except InvalidRequest as error:
        return error.code
    return None


def _expected(content: bytes) -> str | None:
    lines = [line.strip(b" \t\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    first = next((line for line in lines if line), None)
    if first is None:
        return "empty_file"
    try:
        json.loads(first.decode())
    except ValueError:
        return "invalid_json_line"
    return None


pieces = st.lists(
    st.sampled_from([b"\xef\xbb\xbf", b"\r\n", b"\n", b" ", b"\t", b"{}", b'{"a": 1}', b"{", b"1", b"\xff"])
)


@given(content=pieces.map(b"".join), data=st.data())
def test_the_verdict_is_the_same_however_the_file_is_cut(content: bytes, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(content))))
    assert judge(content, cuts) == _expected(content)


def test_the_line_at_fault_is_named() -> None:
    first_line = FirstLine(1000)
    first_line.feed(b"\n \n\nnonsense\n")
    with pytest.raises(InvalidRequest, match="line 4 "):
        first_line.check()


def test_a_line_that_is_too_long_is_not_judged() -> None:
    assert judge(b"x" * 1001, [], max_bytes=1000) is None
    assert judge(b"x" * 1000, [], max_bytes=1000) == "invalid_json_line"


def test_deep_nesting_is_an_answer_and_no_crash() -> None:
    assert judge(b"[" * 500_000, [], max_bytes=1 << 20) == "invalid_json_line"
