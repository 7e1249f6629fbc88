"""The demo's input: the shipped examples, or a file of the user's own."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure


@dataclass(frozen=True, slots=True)
class RequestsFile:
    """A file of requests, as it is uploaded.

    Attributes:
        path: Where it is.
        name: What it is called when uploaded.
        lines: How many requests it holds.
        endpoint: The endpoint that the first one names.
        model: The model that the first one names.
    """

    path: Path
    name: str
    lines: int
    endpoint: str
    model: str


def prepare(own: Path | None, wanted: int | None, directory: Path) -> RequestsFile:
    """Choose the lines and, where they are not a file already, write them into `directory`.

    Args:
        own: A file of the user's own, or None for the shipped examples.
        wanted: How many lines: the first ones of an own file; the examples are repeated under new custom_ids.
        directory: Where to write.

    Raises:
        Failure: The file cannot be read, or its first line is not a request.
    """
    target = directory / "requests.jsonl"
    if own is None:
        number = _write(_examples(wanted), target)
    else:
        with _opened(own) as lines:
            number = _write(islice(_not_blank(lines), wanted), target)
    name = own.name if own is not None else "demo.jsonl"
    endpoint, model = _first_request(target, name)
    return RequestsFile(target, f"{name.removesuffix('.jsonl')}.jsonl", number, endpoint, model)


def questions(path: Path, custom_ids: Iterable[str]) -> dict[str, str]:
    """What the requests with these custom_ids ask."""
    missing = set(custom_ids)
    found: dict[str, str] = {}
    with path.open("rb") as lines:
        for line in _not_blank(lines):
            if not missing:
                break
            request = json.loads(line)
            if request.get("custom_id") in missing:
                missing.discard(request["custom_id"])
                found[request["custom_id"]] = _question(request.get("body") or {})
    return found


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}.", EXIT_MISCONFIGURED) from error


def _question(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    if isinstance(messages, list) and messages:
        return _text(messages[-1].get("content"))
    return _text(body.get("prompt", body.get("input", body.get("query", ""))))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _examples(wanted: int | None) -> Iterator[bytes]:
    lines = files("batchyard.cli").joinpath("data", "demo.jsonl").read_bytes().splitlines(keepends=True)
    if wanted is None:
        yield from lines
        return
    left = wanted
    for turn in count(1):
        for line in lines[:left]:
            yield line if turn == 1 else _renamed(line, turn)
        left -= min(left, len(lines))
        if not left:
            return


def _renamed(line: bytes, turn: int) -> bytes:
    request = json.loads(line)
    request["custom_id"] += f"-{turn}"
    return json.dumps(request, ensure_ascii=False).encode() + b"\n"


def _not_blank(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.strip())


def _write(lines: Iterable[bytes], target: Path) -> int:
    number = 0
    with target.open("wb") as file:
        for line in lines:
            file.write(line)
            number += 1
    return number


def _first_request(path: Path, name: str) -> tuple[str, str]:
    with path.open("rb") as lines:
        first = lines.readline()
    try:
        request: Any = json.loads(first.decode("utf-8-sig"))
        return str(request["url"]), str(request["body"]["model"])
    except (ValueError, LookupError, TypeError) as error:
        raise Failure(
            f"{name}: the first line is not a request. A line looks like "
            '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
            '"body": {"model": "my-vllm-model", "messages": [{"role": "user", "content": "Hello"}]}}',
            EXIT_MISCONFIGURED,
        ) from error
