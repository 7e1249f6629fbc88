"""What a server with a Batch API of its own says, as far as it matters here.

Source of the documents: https://platform.openai.com/docs/api-reference/batch and …/files. Servers differ in what they
leave out, so nothing is required but what nothing can be done without.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from batchyard.batch_runner.lines import Number, Tokens, read_answer
from batchyard.batch_runner.segments import Kind, Result
from batchyard.batch_runner.validate import MAX_PROBLEMS, shortened
from batchyard.common.contracts.batches import BatchProblem
from batchyard.common.result_lines import request_id

BATCH_KEY = "batchyard_batch"
"""The key of the server's batch metadata under which our batch's raw ID stands."""

_OVER = frozenset({"completed", "failed", "expired", "cancelled"})
_NEVER_ANSWERED = frozenset({"batch_cancelled", "batch_expired"})
_NO_ROOM = "token_limit_exceeded"
_NULL = b"null"

T = TypeVar("T")


class UpstreamFile(msgspec.Struct, frozen=True):
    """A File object."""

    id: str
    created_at: Number = 0
    filename: str | None = None


class _Counts(msgspec.Struct, frozen=True):
    total: Number = 0
    completed: Number = 0
    failed: Number = 0


class _Problem(msgspec.Struct, frozen=True):
    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: Number = None


class _Problems(msgspec.Struct, frozen=True):
    data: list[_Problem] | None = None


class UpstreamBatch(msgspec.Struct, frozen=True):
    """A Batch object. Its problems' lines count the requests that were sent, from 1."""

    id: str
    status: str
    created_at: Number = 0
    metadata: dict[str, object] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: _Counts | None = None
    errors: _Problems | None = None

    @property
    def is_over(self) -> bool:
        return self.status in _OVER

    @property
    def completed(self) -> int:
        return _count(self.request_counts.completed) if self.request_counts else 0

    @property
    def failed(self) -> int:
        return _count(self.request_counts.failed) if self.request_counts else 0

    @property
    def problems(self) -> tuple[BatchProblem, ...]:
        found = (self.errors.data or [])[:MAX_PROBLEMS] if self.errors else []
        return tuple(
            BatchProblem(
                code=shortened(problem.code or "upstream_error"),
                message=shortened(problem.message or "The server gave no reason."),
                param=shortened(problem.param) if problem.param else None,
                line=int(problem.line) if problem.line else None,
            )
            for problem in found
        )

    @property
    def is_turned_away(self) -> bool:
        """Whether the server ran nothing of it, since it has too much to do for now."""
        has_results = self.output_file_id or self.error_file_id
        return self.status == "failed" and not has_results and {p.code for p in self.problems} == {_NO_ROOM}

    def is_of(self, raw_id: str) -> bool:
        """Whether it was created for our batch `raw_id`."""
        return (self.metadata or {}).get(BATCH_KEY) == raw_id


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list."""

    data: list[T]
    has_more: bool = False


class _Error(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None
    param: str | None = None


class _Envelope(msgspec.Struct):
    error: _Error | str | None = None
    detail: object = None


class _ResultLine(msgspec.Struct):
    custom_id: str
    response: msgspec.Raw = msgspec.Raw(_NULL)
    error: msgspec.Raw = msgspec.Raw(_NULL)


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(_NULL)


class _LineError(msgspec.Struct):
    code: object = None


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_line_decoder = msgspec.json.Decoder(_ResultLine)
_response_decoder = msgspec.json.Decoder(_Response)
_error_decoder = msgspec.json.Decoder(_LineError)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a server did not do what it was asked to."""

    status: int
    code: str
    message: str
    param: str | None


def read_refusal(status: int, body: bytes) -> Refusal:
    """What an answer with an error status says; one of an unknown shape is quoted."""
    try:
        envelope = _envelope_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        envelope = _Envelope()
    error = envelope.error
    if isinstance(error, _Error) and error.message:
        code = error.code if isinstance(error.code, str) and error.code else "upstream_error"
        return Refusal(status, shortened(code), shortened(error.message), error.param)
    said = error if isinstance(error, str) else envelope.detail
    text = said if isinstance(said, str) and said else body.decode(errors="replace").strip()
    return Refusal(status, "upstream_error", shortened(text or "no reason was given"), None)


def read_result(text: bytes, batch_hex: str, deployment: str) -> Result | None:
    """A line of a server's output or error file; None when it is no result, or none of this batch.

    The result's text is the end of our result line: its `response` and `error` are the server's own bytes.
    """
    try:
        if not text.isascii():
            text.decode()
        line = _line_decoder.decode(text)
        number = line_of(line.custom_id, batch_hex)
        if number is None:
            return None
        return _answered(number, line, deployment) or _unanswered(number, line, deployment)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def line_of(custom_id: str, batch_hex: str) -> int | None:
    """The input line that a request was made from: the server knows each by the ID that our result will have."""
    digits = custom_id.rpartition(batch_hex)[2]
    try:
        number = int(digits, 16)
    except ValueError:
        return None
    return number if custom_id == request_id(batch_hex, number) else None


def _answered(number: int, line: _ResultLine, deployment: str) -> Result | None:
    if bytes(line.response) == _NULL:
        return None
    response = _response_decoder.decode(line.response)
    text = _ending(line)
    if not 200 <= response.status_code < 300:
        return Result(number, Kind.FAILED, Tokens(), deployment, text)
    read = read_answer(bytes(response.body))
    return Result(number, Kind.COMPLETED, read.tokens if read else Tokens(), deployment, text)


def _unanswered(number: int, line: _ResultLine, deployment: str) -> Result | None:
    """An error of the server's own. That it never came to a request is said by us: we know why."""
    if bytes(line.error) == _NULL:
        return None
    if _error_decoder.decode(line.error).code in _NEVER_ANSWERED:
        return None
    return Result(number, Kind.FAILED, Tokens(), deployment, _ending(line))


def _ending(line: _ResultLine) -> bytes:
    return b'"response":%b,"error":%b}' % (bytes(line.response), bytes(line.error))


def _count(number: Number) -> int:
    return max(int(number or 0), 0)
