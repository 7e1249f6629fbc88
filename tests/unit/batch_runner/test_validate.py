"""Lines that cannot be run are named with their code, their field and their number."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.lines import read_request
from batchyard.batch_runner.validate import LineRules, SeenIds, check_line

RULES = LineRules(endpoint="/v1/chat/completions", max_line_bytes=10_000)
GOOD = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


def check(**changes: object) -> tuple[str, str | None, str] | None:
    """The code, field and message of the problem with `GOOD`, changed; `...` leaves a member out."""
    line = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    problem = check_line(7, json.dumps(line).encode(), RULES).problem
    if problem is None:
        return None
    assert problem.line == 7
    return problem.code, problem.param, problem.message


def test_a_good_line_has_no_problem_and_tells_its_model() -> None:
    checked = check_line(1, json.dumps(GOOD).encode(), RULES)
    assert (checked.problem, checked.custom_id, checked.model) == (None, "a", "m")


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/chat/completions"])
def test_a_url_may_lack_its_version(url: str) -> None:
    assert check(url=url) is None


@pytest.mark.parametrize(
    "text", [b"{", b"nonsense", b'{"a":1}}', b"\xff\xfe", b'{"custom_id":"\xff"}', b"[" * 100, b"1"]
)
def test_a_line_that_is_no_json_object(text: bytes) -> None:
    problem = check_line(7, text, RULES).problem
    assert problem is not None
    assert (problem.code, problem.param, problem.line) == ("invalid_json_line", None, 7)
    assert problem.message == "This line is not parseable as valid JSON."


@pytest.mark.parametrize("field", ["custom_id", "method", "url", "body"])
@pytest.mark.parametrize("value", [..., None], ids=["absent", "null"])
def test_a_missing_field(field: str, value: object) -> None:
    assert check(**{field: value}) == (
        "missing_required_parameter",
        field,
        f"Missing required parameter: '{field}'.",
    )


@pytest.mark.parametrize("custom_id", [7, "", "x" * 513, ["a"]])
def test_a_custom_id_that_is_none(custom_id: object) -> None:
    problem = check(custom_id=custom_id)
    assert problem is not None
    assert problem[:2] == ("invalid_custom_id", "custom_id")


@pytest.mark.parametrize("method", ["GET", "post", 1])
def test_another_method(method: object) -> None:
    problem = check(method=method)
    assert problem is not None
    assert problem[:2] == ("invalid_method", "method")


@pytest.mark.parametrize("url", ["/v1/completions", "https://x/v1/chat/completions", 3, "/v1/chat/completions/"])
def test_a_url_that_is_not_the_batchs_endpoint(url: object) -> None:
    message = "The URL provided for this request does not match the batch endpoint."
    assert check(url=url) == ("invalid_url", "url", message)


@pytest.mark.parametrize("body", [[], "text", 3])
def test_a_body_that_is_no_object(body: object) -> None:
    problem = check(body=body)
    assert problem is not None
    assert problem[:2] == ("invalid_request", "body")


@pytest.mark.parametrize("stream", [True, 1, "yes", {}])
def test_streaming_is_refused(stream: object) -> None:
    problem = check(body={"model": "m", "stream": stream})
    assert problem is not None
    assert problem[:2] == ("streaming_unsupported", "body.stream")
    assert "Streaming is not supported in the Batch API." in problem[2]


@pytest.mark.parametrize("model", [3, "", ["m"]])
def test_a_model_that_is_no_name(model: object) -> None:
    problem = check(body={"model": model})
    assert problem is not None
    assert problem[:2] == ("invalid_request", "body.model")


def test_a_line_beyond_the_limit() -> None:
    problem = check_line(7, b"x" * 10_001, RULES).problem
    assert problem is not None
    assert problem.code == "line_too_large"


def test_a_member_that_stands_twice_is_read_as_the_runner_reads_it() -> None:
    text = json.dumps(GOOD).replace('"url"', '"url": 1, "url"').encode()
    assert check_line(1, text, RULES).problem is None
    assert bytes(read_request(text).custom_id) == b'"a"'


@pytest.mark.parametrize(("depth", "deep"), [(190, False), (201, True), (5000, True), (100_000, True)])
def test_nesting_has_a_limit_of_its_own(depth: int, deep: bool) -> None:
    body = "[" * depth + "]" * depth
    text = json.dumps(GOOD).replace('"hi"', body).encode()
    problem = check_line(7, text, LineRules("/v1/chat/completions", 10**7)).problem
    assert (problem is not None) == deep
    if problem is not None:
        assert (problem.code, problem.line) == ("invalid_json_line", 7)


def test_brackets_in_a_text_are_no_nesting() -> None:
    assert check(body={"model": "m", "messages": "[{" * 300 + '\\" [['}) is None


def test_a_model_name_has_a_limit() -> None:
    problem = check(body={"model": "m" * 513})
    assert problem is not None
    assert problem[:2] == ("invalid_request", "body.model")


@given(st.binary(max_size=300))
def test_no_bytes_break_the_check(text: bytes) -> None:
    checked = check_line(1, text, RULES)
    assert (checked.problem is None) == (checked.custom_id is not None)


@given(st.lists(st.text()))
def test_a_custom_id_is_new_once(custom_ids: list[str]) -> None:
    seen = SeenIds()
    assert [seen.is_new(custom_id) for custom_id in custom_ids] == [
        custom_id not in custom_ids[:index] for index, custom_id in enumerate(custom_ids)
    ]
