"""Requests that came with the wish for a batch instead of in a file, written as the file they could have been."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

INLINE_FILENAME = "inline.jsonl"


def request_lines(requests: Iterable[Mapping[str, Any]], endpoint: str) -> bytes:
    """One line of JSON for each request, with what it may leave out: `custom_id`, `method` and `url`.

    Raises:
        ValueError: A request holds what JSON cannot say (NaN, an infinity, half a surrogate pair).
    """
    lines = (
        json.dumps(
            {"custom_id": f"request-{number}", "method": "POST", "url": endpoint, **_given(request)},
            ensure_ascii=False,
            allow_nan=False,
        )
        for number, request in enumerate(requests, 1)
    )
    return b"".join(f"{line}\n".encode() for line in lines)


def _given(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if value is not None}
