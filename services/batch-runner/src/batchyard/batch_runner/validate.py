"""Checking the lines of an input file, in the words of the API.

Source of codes and messages: the errors that OpenAI's Batch API reports (https://platform.openai.com/docs/guides/batch).
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from batchyard.batch_runner.estimate import allowed_output
from batchyard.common.contracts.batches import BatchProblem

MAX_PROBLEMS = 100
MAX_CUSTOM_ID = 512
MAX_MODEL = 512
MAX_DEPTH = 200
_QUOTED = 200
_BRACKETS = re.compile(rb'(?P<string>"(?:[^"\\]|\\.)*"?)|(?P<open>[\[{])|(?P<close>[\]}])', re.DOTALL)


class _Body(msgspec.Struct):
    model: object = None
    stream: object = None
    max_completion_tokens: object = None
    max_tokens: object = None
    max_output_tokens: object = None
    n: object = None


class _Line(msgspec.Struct):
    custom_id: object = msgspec.UNSET
    method: object = msgspec.UNSET
    url: object = msgspec.UNSET
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class LineRules:
    """What every line of one batch has to keep.

    Attributes:
        endpoint: The batch's endpoint, beginning with `/v1/`.
        max_line_bytes: Longer lines are refused.
    """

    endpoint: str
    max_line_bytes: int


_line_decoder = msgspec.json.Decoder(_Line)
_body_decoder = msgspec.json.Decoder(_Body)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """A line as far as it could be read. `model` is `body.model`, or None when the line names none; `allowed_output`
    the tokens that it allows for its answer, or None when it does not say."""

    custom_id: str | None
    model: str | None
    problem: BatchProblem | None
    allowed_output: int | None = None


def check_line(number: int, text: bytes, rules: LineRules) -> CheckedLine:
    """Check what a line says on its own; the first problem found is reported."""

    def refused(code: str, message: str, param: str | None = None) -> CheckedLine:
        return CheckedLine(None, None, BatchProblem(code=code, message=message, param=param, line=number))

    if len(text) > rules.max_line_bytes:
        return refused(
            "line_too_large", f"This line has {len(text)} bytes; at most {rules.max_line_bytes} are allowed."
        )
    try:
        text.decode()
        if is_nested_deeper(text, MAX_DEPTH):
            return refused("invalid_json_line", f"This line is nested deeper than {MAX_DEPTH} levels.")
        line = _line_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return refused("invalid_json_line", "This line is not parseable as valid JSON.")
    for name in ("custom_id", "method", "url", "body"):
        value = getattr(line, name)
        if value in (msgspec.UNSET, None) or (isinstance(value, msgspec.Raw) and bytes(value) == b"null"):
            return refused("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    return _check_members(line, rules, refused)


def _check_members(line: _Line, rules: LineRules, refused: Callable[..., CheckedLine]) -> CheckedLine:
    if not isinstance(line.custom_id, str) or not 0 < len(line.custom_id) <= MAX_CUSTOM_ID:
        message = f"The custom_id must be a string of 1 to {MAX_CUSTOM_ID} characters."
        return refused("invalid_custom_id", message, "custom_id")
    if line.method != "POST":
        return refused(
            "invalid_method", f"Invalid method: '{shortened(str(line.method))}'. Only 'POST' is supported.", "method"
        )
    if not isinstance(line.url, str) or normal_path(line.url) != rules.endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        return refused("invalid_url", message, "url")
    assert isinstance(line.body, msgspec.Raw)
    try:
        body = _body_decoder.decode(line.body)
    except msgspec.DecodeError:
        return refused("invalid_request", "The body must be a JSON object.", "body")
    if body.stream not in (None, False):
        message = "The 'stream' parameter must not be set: Streaming is not supported in the Batch API."
        return refused("streaming_unsupported", message, "body.stream")
    if body.model is not None and (not isinstance(body.model, str) or not 0 < len(body.model) <= MAX_MODEL):
        return refused("invalid_request", f"The model must be a string of 1 to {MAX_MODEL} characters.", "body.model")
    allowed = allowed_output(body.max_completion_tokens, body.max_tokens, body.max_output_tokens, choices=body.n)
    return CheckedLine(line.custom_id, body.model, None, allowed)


def normal_path(url: str) -> str:
    """A line's `url` with the `/v1` that it may lack."""
    return url if url.startswith("/v1/") else f"/v1{url}"


def id_digest(custom_id: str) -> bytes:
    """16 bytes that stand for a custom_id, so that the IDs of a million lines fit into memory."""
    return hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=16).digest()


class SeenIds:
    """Tells whether a custom_id came before."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def is_new(self, custom_id: str) -> bool:
        before = len(self._digests)
        self._digests.add(id_digest(custom_id))
        return len(self._digests) > before


def is_nested_deeper(text: bytes, limit: int) -> bool:
    """Whether JSON is nested deeper than `limit`: parsers recurse, and where one gives up depends on its caller."""
    if text.count(b"{") + text.count(b"[") <= limit:
        return False
    depth = 0
    for match in _BRACKETS.finditer(text):
        if match.lastgroup == "open":
            depth += 1
            if depth > limit:
                return True
        elif match.lastgroup == "close":
            depth -= 1
    return False


def shortened(text: str) -> str:
    """A value of the client's as a message may quote it: a record holds up to a hundred messages."""
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…"
