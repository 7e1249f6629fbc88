"""A line's bytes: what is read, what is sent, what is written."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.lines import (
    LineError,
    Tokens,
    answered_line,
    body_for,
    on_one_line,
    one_line_json,
    read_answer,
    read_request,
    unanswered_line,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def line(body: str, custom_id: str = '"a"') -> bytes:
    return f'{{"custom_id":{custom_id},"method":"POST","url":"/v1/chat/completions","body":{body}}}'.encode()


def test_the_model_is_swapped_and_every_other_byte_kept() -> None:
    body = '{"model":"mine","seed":123456789012345678901234567890,"top_p":0.10,"messages":[{"content":"h\\u00e9"}]}'
    assert body_for(read_request(line(body)), "theirs") == body.replace("mine", "theirs").encode()


def test_a_model_is_added_where_the_line_names_none() -> None:
    assert json.loads(body_for(read_request(line('{"x":1}')), "m")) == {"x": 1, "model": "m"}


@given(body=st.dictionaries(st.text(), json_values, max_size=5), model=st.text(min_size=1))
def test_a_body_differs_from_the_clients_in_its_model_alone(body: dict[str, object], model: str) -> None:
    sent = json.loads(body_for(read_request(line(json.dumps(body))), model))
    assert sent == {**body, "model": model}


def test_tokens_are_read_from_chat_and_from_responses_usage() -> None:
    chat = b'{"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8}}}'
    responses = b'{"usage":{"input_tokens":9,"output_tokens":4,"output_tokens_details":{"reasoning_tokens":3}}}'
    assert read_answer(chat).tokens == Tokens(9, 8, 4, 0)  # type: ignore[union-attr]
    assert read_answer(responses).tokens == Tokens(9, 0, 4, 3)  # type: ignore[union-attr]


def test_embeddings_name_no_completion_tokens() -> None:
    answer = read_answer(b'{"usage":{"prompt_tokens":7,"total_tokens":7,"completion_tokens":0}}')
    assert answer is not None
    assert answer.tokens == Tokens(7, 0, 0, 0)


def test_only_total_tokens_are_taken_for_the_prompt() -> None:
    answer = read_answer(b'{"usage":{"total_tokens":7}}')
    assert answer is not None
    assert answer.tokens == Tokens(7, 0, 0, 0)


def test_an_aborted_answer_is_recognised() -> None:
    assert read_answer(b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"abort"}]}').aborted  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b'{"a":1', b'{"a":"\xff"}', b"<html>"])
def test_what_is_no_json_object_is_no_answer(body: bytes) -> None:
    assert read_answer(body) is None


def test_usage_of_an_unknown_shape_counts_nothing() -> None:
    answer = read_answer(b'{"usage":{"prompt_tokens":"many"}}')
    assert answer is not None
    assert answer.tokens == Tokens()


@given(
    custom_id=st.text(min_size=1),
    body=st.dictionaries(st.text(), json_values, max_size=4),
    indent=st.sampled_from([None, 2]),
)
def test_a_result_line_holds_the_answer_as_it_was(custom_id: str, body: dict[str, object], indent: int | None) -> None:
    request = read_request(line("{}", json.dumps(custom_id)))
    answer = json.dumps(body, indent=indent, ensure_ascii=False).encode()
    text = answered_line("batch_req_1", bytes(request.custom_id), 200, "up-1", on_one_line(answer))
    assert b"\n" not in text
    assert json.loads(text) == {
        "id": "batch_req_1",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": "up-1", "body": body},
        "error": None,
    }


def test_a_usage_of_odd_numbers_is_counted_within_reason() -> None:
    answer = read_answer(b'{"usage":{"prompt_tokens":12.0,"completion_tokens":-3},"choices":[7]}')
    assert answer is not None
    assert answer.tokens == Tokens(12, 0, 0, 0)


def test_an_answer_nested_beyond_reason_is_no_answer() -> None:
    body = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert read_answer(body) is None
    assert b"error" in one_line_json(body)


def test_a_request_id_that_is_no_text_is_written_all_the_same() -> None:
    assert json.loads(answered_line("i", b'"a"', 500, "x\udc80", b"{}"))["response"]["status_code"] == 500


def test_an_unanswered_line_says_why() -> None:
    text = unanswered_line("batch_req_1", b'"a"', LineError("batch_expired", 'too "late"'))
    assert json.loads(text) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": None,
        "error": {"code": "batch_expired", "message": 'too "late"'},
    }


@given(st.binary(max_size=200))
def test_any_answer_becomes_one_line_of_json(body: bytes) -> None:
    text = one_line_json(body)
    msgspec.json.decode(text)
    assert b"\n" not in text


def test_a_page_of_html_is_quoted_in_an_error_object() -> None:
    assert json.loads(one_line_json(b"<h1>\n502</h1>"))["error"]["message"] == "<h1>\n502</h1>"
