"""pydantic's findings in the words of OpenAI's API: message, param and code."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pydantic_core import ErrorDetails, PydanticCustomError

from batchyard.common.errors import InvalidRequest

REFUSED = "refused"
"""The type of a `PydanticCustomError` that is an answer already; see `refuse`."""

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "int_from_float": "an integer",
    "dict_type": "an object",
    "model_type": "an object",
    "list_type": "an array",
    "bool_type": "a boolean",
    "decimal_type": "a number",
    "is_instance_of": "a number",  # of Decimal, the one class that is asked for
}


def refuse(message: str, code: str = "invalid_value") -> NoReturn:
    """Refuse a value from within a pydantic validator, in words that reach the client unchanged."""
    raise PydanticCustomError(REFUSED, "{message}", {"message": message, "code": code})


def whole(value: object) -> object:
    """JSON has one kind of number: 3600.0 is the integer 3600."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unsupported_value(value: str, supported: Iterable[str]) -> str:
    """OpenAI's sentence about a value that is not one of a few."""
    return f"Invalid value: '{value}'. Supported values are: {_listed(supported)}."


def invalid_request(errors: Sequence[ErrorDetails | dict[str, Any]], *, prefix: str = "") -> InvalidRequest:
    """The first of pydantic's findings as an answer.

    Args:
        errors: What `ValidationError.errors()` returned; at least one.
        prefix: The param under which the validated value stands in the request.
    """
    error = errors[0]
    keys = [part for part in error["loc"] if part != "[key]"]
    param = _dotted([prefix, *keys] if prefix else keys)
    if error["loc"] and error["loc"][-1] == "[key]":
        return _invalid_key(error, param)
    if error["type"] in _EXPECTED:
        return _invalid_type(error, param)
    describe = _DESCRIBERS.get(error["type"], _other)
    return describe(error, param)


Finding = ErrorDetails | dict[str, Any]


def _missing(_error: Finding, param: str) -> InvalidRequest:
    return missing(param)


def missing(param: str) -> InvalidRequest:
    """A required parameter was not given."""
    return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def _invalid_type(error: Finding, param: str) -> InvalidRequest:
    expected, got = _EXPECTED[error["type"]], _json_type(error["input"])
    where = f" for '{param}'" if param else " for the request body"
    return InvalidRequest(
        f"Invalid type{where}: expected {expected}, but got {got} instead.", param=param or None, code="invalid_type"
    )


def _malformed(error: Finding, _param: str) -> InvalidRequest:
    reason = error["ctx"]["error"]
    return InvalidRequest(f"We could not parse the JSON body of your request: {reason}.", code="invalid_json")


def _below(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': integer below minimum value. "
        f"Expected a value >= {error['ctx']['ge']}, but got {error['input']} instead.",
        param=param,
        code="integer_below_min_value",
    )


def _above(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': integer above maximum value. "
        f"Expected a value <= {error['ctx']['le']}, but got {error['input']} instead.",
        param=param,
        code="integer_above_max_value",
    )


def _too_long(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': string too long. Expected a string with maximum length "
        f"{error['ctx']['max_length']}, but got a string with length {len(error['input'])} instead.",
        param=param,
        code="string_above_max_length",
    )


def _too_short(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': string too short. Expected a string with minimum length "
        f"{error['ctx']['min_length']}, but got a string with length {len(error['input'])} instead.",
        param=param,
        code="string_below_min_length",
    )


def _too_many(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': too many properties. Expected an object with at most "
        f"{error['ctx']['max_length']} properties, but got an object with {len(error['input'])} instead.",
        param=param,
        code="object_above_max_properties",
    )


def _too_few(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': empty array. Expected an array with minimum length {error['ctx']['min_length']}, but got "
        "an empty array instead.",
        param=param,
        code="empty_array",
    )


def _invalid_key(error: Finding, param: str) -> InvalidRequest:
    owner = param.rpartition(".")[0]
    if error["type"] != "string_too_long":
        return InvalidRequest(f"Invalid property name in '{owner}': {error['msg']}.", param=owner, code="invalid_value")
    return InvalidRequest(
        f"Invalid property name in '{owner}': string too long. Expected a string with maximum length "
        f"{error['ctx']['max_length']}, but got a string with length {len(error['input'])} instead.",
        param=owner,
        code="property_name_above_max_length",
    )


def _unsupported(error: Finding, param: str) -> InvalidRequest:
    supported = re.findall(r"'([^']*)'", error["ctx"]["expected"])
    return InvalidRequest(unsupported_value(str(error["input"]), supported), param=param, code="invalid_value")


def _unknown(_error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def _unmatched(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{param}': expected a string that matches the pattern '{error['ctx']['pattern']}'.",
        param=param,
        code="invalid_value",
    )


def _refused(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(error["ctx"]["message"], param=param, code=error["ctx"]["code"])


def _other(error: Finding, param: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {error['msg']}." if param else f"{error['msg']}.", param=param or None)


_DESCRIBERS: dict[str, Callable[[Finding, str], InvalidRequest]] = {
    "missing": _missing,
    "json_invalid": _malformed,
    "greater_than_equal": _below,
    "less_than_equal": _above,
    "string_too_long": _too_long,
    "string_too_short": _too_short,
    "too_long": _too_many,
    "too_short": _too_few,
    "literal_error": _unsupported,
    "extra_forbidden": _unknown,
    "string_pattern_mismatch": _unmatched,
    REFUSED: _refused,
}


def _dotted(parts: Sequence[Any]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _listed(values: Iterable[str]) -> str:
    *others, last = (f"'{value}'" for value in values)
    if len(others) < 2:
        return " and ".join([*others, last])
    return f"{', '.join(others)}, and {last}"


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
