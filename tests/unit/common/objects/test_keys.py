import string
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.objects import InvalidObjectKey, check_key, check_prefix

SEGMENTS = st.text(string.ascii_letters + string.digits + "._=-", min_size=1, max_size=200).filter(
    lambda segment: segment not in {".", ".."}
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join).filter(lambda key: len(key) <= 900)


@given(KEYS)
def test_valid_keys_and_all_their_beginnings_are_accepted(key: str) -> None:
    check_key(key)
    for end in range(len(key) + 1):
        check_prefix(key[:end])


@given(st.text(max_size=20) | st.text("a.=/-_Z9 ", max_size=8))
def test_any_text_is_accepted_exactly_by_the_rules(text: str) -> None:
    allowed = set(string.ascii_letters + string.digits + "._=-")
    segments = text.split("/")
    valid = all(segment not in {"", ".", ".."} and set(segment) <= allowed for segment in segments)
    with nullcontext() if valid else pytest.raises(InvalidObjectKey):
        check_key(text)


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "a/", "/a", "a//b", ".", "..", "a/./b", "a/..", "../a"),
        *("a b", "a\n", "ä", "a\0", "a\\b", "a:b", "%2e", "s" * 201, "a/" * 449 + "abc"),
    ],
)
def test_invalid_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidObjectKey):
        check_key(key)


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "./", "a/../", "a b", "a\n", "s" * 201])
def test_prefixes_that_no_key_has_are_refused(prefix: str) -> None:
    with pytest.raises(InvalidObjectKey):
        check_prefix(prefix)


def test_the_error_does_not_repeat_a_huge_key() -> None:
    with pytest.raises(InvalidObjectKey) as caught:
        check_key("k" * 100_000)
    assert len(str(caught.value)) < 300
