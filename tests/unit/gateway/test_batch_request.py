"""The body of a new batch: what is understood, and in which words the rest is refused."""

import json
from typing import Any

import pytest

from batchyard.common.errors import InvalidRequest
from batchyard.gateway.batch_request import parse_batch_request

WISH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
ENDPOINTS = (
    "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/responses', '/v1/score', '/v1/rerank', "
    "'/v1/pooling', and '/v1/classify'"
)


def refusal(wish: Any) -> InvalidRequest:
    """What is said about a body."""
    with pytest.raises(InvalidRequest) as caught:
        parse_batch_request(wish if isinstance(wish, bytes) else json.dumps(wish).encode())
    return caught.value


@pytest.mark.parametrize("missing", list(WISH))
def test_a_missing_parameter_is_named(missing: str) -> None:
    error = refusal({key: WISH[key] for key in WISH if key != missing})
    assert error.message == f"Missing required parameter: '{missing}'."
    assert (error.param, error.code) == (missing, "missing_required_parameter")


def _type_error(param: str, expected: str, got: str) -> tuple[str, str, str]:
    return f"Invalid type for '{param}': expected {expected}, but got {got} instead.", param, "invalid_type"


@pytest.mark.parametrize(
    ("change", "message", "param", "code"),
    [
        ({"input_file_id": 7}, *_type_error("input_file_id", "a string", "an integer")),
        ({"input_file_id": None}, *_type_error("input_file_id", "a string", "null")),
        ({"endpoint": ["x"]}, *_type_error("endpoint", "a string", "an array")),
        ({"completion_window": 24.5}, *_type_error("completion_window", "a string", "a decimal number")),
        ({"metadata": "x"}, *_type_error("metadata", "an object", "a string")),
        ({"metadata": {"tags": ["a"]}}, *_type_error("metadata.tags", "a string", "an array")),
        ({"metadata": {"tags": True}}, *_type_error("metadata.tags", "a string", "a boolean")),
        ({"metadata": {"tags": {}}}, *_type_error("metadata.tags", "a string", "an object")),
        ({"model": 1}, *_type_error("model", "a string", "an integer")),
        ({"output_expires_after": 1}, *_type_error("output_expires_after", "an object", "an integer")),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": "3600"}},
            *_type_error("output_expires_after.seconds", "an integer", "a string"),
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
            (
                "Invalid 'output_expires_after.seconds': integer above maximum value. Expected a value <= 2592000, "
                "but got 2592001 instead."
            ),
            "output_expires_after.seconds",
            "integer_above_max_value",
        ),
        (
            {"output_expires_after": {"anchor": "now", "seconds": 3600}},
            "Invalid value: 'now'. Supported values are: 'created_at'.",
            "output_expires_after.anchor",
            "invalid_value",
        ),
        (
            {"output_expires_after": {"seconds": 3600}},
            "Missing required parameter: 'output_expires_after.anchor'.",
            "output_expires_after.anchor",
            "missing_required_parameter",
        ),
        (
            {"endpoint": "/v1/images"},
            f"Invalid value: '/v1/images'. Supported values are: {ENDPOINTS}.",
            "endpoint",
            "invalid_value",
        ),
        (
            {"metadata": {str(n): "x" for n in range(17)}},
            (
                "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an "
                "object with 17 instead."
            ),
            "metadata",
            "object_above_max_properties",
        ),
        (
            {"metadata": {"k" * 65: "x"}},
            (
                "Invalid property name in 'metadata': string too long. Expected a string with maximum length 64, but "
                "got a string with length 65 instead."
            ),
            "metadata",
            "property_name_above_max_length",
        ),
        (
            {"metadata": {"k": "x" * 513}},
            (
                "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but got a string "
                "with length 513 instead."
            ),
            "metadata.k",
            "string_above_max_length",
        ),
        (
            {"input_file_id": ""},
            (
                "Invalid 'input_file_id': string too short. Expected a string with minimum length 1, but got a string "
                "with length 0 instead."
            ),
            "input_file_id",
            "string_below_min_length",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_in_openai_words(
    change: dict[str, Any], message: str, param: str, code: str
) -> None:
    error = refusal(WISH | change)
    assert (error.message, error.param, error.code) == (message, param, code)


@pytest.mark.parametrize("window", ["1m", "90m", "1h", "24h", "720h", "7d", "30d"])
def test_windows_that_can_be_kept(window: str) -> None:
    assert parse_batch_request(json.dumps(WISH | {"completion_window": window}).encode()).completion_window == window


@pytest.mark.parametrize("window", ["", "24", "0h", "31d", "1w", "60s", "-1h", "1.5h", "24h ", "９h"])
def test_windows_that_cannot(window: str) -> None:
    error = refusal(WISH | {"completion_window": window})
    assert (error.param, error.code) == ("completion_window", "invalid_value")
    assert error.message.startswith(f"Invalid value: '{window}'. Supported values are: '24h'")


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b"[" * 100_000, b"{'a': 1}"])
def test_malformed_json_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert error.message.startswith("We could not parse the JSON body of your request: ")
    assert (error.param, error.code) == (None, "invalid_json")


@pytest.mark.parametrize(("body", "kind"), [([], "an array"), (None, "null"), ("x", "a string"), (1, "an integer")])
def test_json_that_is_no_object_is_refused(body: Any, kind: str) -> None:
    error = refusal(body)
    assert error.message == f"Invalid type for the request body: expected an object, but got {kind} instead."
    assert error.code == "invalid_type"


def test_a_whole_number_may_be_written_with_a_fraction() -> None:
    expiry = {"anchor": "created_at", "seconds": 3600.0}
    wanted = parse_batch_request(json.dumps({**WISH, "output_expires_after": expiry}).encode()).output_expires_after
    assert wanted is not None
    assert (wanted.seconds, type(wanted.seconds)) == (3600, int)
    error = refusal({**WISH, "output_expires_after": {**expiry, "seconds": 3600.5}})
    assert (error.param, error.code) == ("output_expires_after.seconds", "invalid_type")
