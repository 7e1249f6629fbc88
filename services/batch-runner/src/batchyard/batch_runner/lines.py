"""One line of a batch: reading the request, and writing the result around the server's own bytes.

A line is touched as few times as possible: the body stays the bytes the client wrote, save for the model's name.
"""

import msgspec

from batchyard.common.contracts.usage import Usage

BLANK = b" \t\r\n\x0b\x0c"
_MOST_TOKENS = 2**53


class RequestLine(msgspec.Struct, frozen=True):
    """A request line that has passed validation. Both members are the client's own bytes."""

    custom_id: msgspec.Raw
    body: msgspec.Raw


class _Named(msgspec.Struct):
    model: str


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    def usage(self) -> Usage:
        return Usage.of(self.prompt, self.cached, self.output, self.reasoning)


Number = int | float | None


class _InputDetails(msgspec.Struct):
    cached_tokens: Number = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Number = None


class _Usage(msgspec.Struct):
    prompt_tokens: Number = None
    completion_tokens: Number = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: Number = None
    output_tokens: Number = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    total_tokens: Number = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] | None = None


class _Billed(msgspec.Struct):
    usage: _Usage | None = None


class ReadAnswer(msgspec.Struct, frozen=True):
    """What is read of an answer's body. `aborted`: the server gave up half-way, though it said 200."""

    tokens: Tokens
    aborted: bool


_line_decoder = msgspec.json.Decoder(RequestLine)
_named_decoder = msgspec.json.Decoder(_Named)
_answer_decoder = msgspec.json.Decoder(_Answer)
_billed_decoder = msgspec.json.Decoder(_Billed)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def read_request(line: bytes) -> RequestLine:
    """The request in a line that has passed validation."""
    return _line_decoder.decode(line)


def named_model(request: RequestLine) -> str:
    """The model that a request names. Raises msgspec.ValidationError for one that names none."""
    return _named_decoder.decode(request.body).model


def body_for(request: RequestLine, model: str, priority: int | None = None) -> bytes:
    """The body to send: the client's, with `model` for its model's name, and `priority` unless it has one. What else
    there is stays byte for byte."""
    members = _members_decoder.decode(request.body)
    if priority is not None:
        members.setdefault("priority", msgspec.Raw(_encoder.encode(priority)))
    members["model"] = msgspec.Raw(_encoder.encode(model))
    return _encoder.encode(members)


def read_answer(body: bytes) -> ReadAnswer | None:
    """What a 2xx body says; None when it is not a JSON object in UTF-8 and so no answer at all."""
    try:
        answer = _answer_decoder.decode(body)
        if not body.isascii():
            body.decode()
    except msgspec.ValidationError:
        # A member of an unknown shape ends the decoding: what comes after it has not been looked at.
        return _read_usage(body) if _is_json(body) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    aborted = any(choice.finish_reason == "abort" for choice in answer.choices or ())
    return ReadAnswer(_tokens(answer.usage) if answer.usage else Tokens(), aborted)


def _read_usage(body: bytes) -> ReadAnswer | None:
    """The usage in JSON of an unknown shape; an object whose usage is unreadable too is an answer without tokens."""
    try:
        usage = _billed_decoder.decode(body).usage
    except msgspec.ValidationError:
        return ReadAnswer(Tokens(), aborted=False) if body.lstrip()[:1] == b"{" else None
    return ReadAnswer(_tokens(usage) if usage else Tokens(), aborted=False)


def _tokens(usage: _Usage) -> Tokens:
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    output = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    if prompt is None and usage.total_tokens is not None:
        prompt = usage.total_tokens - (output or 0)
    inputs = usage.prompt_tokens_details or usage.input_tokens_details
    outputs = usage.completion_tokens_details or usage.output_tokens_details
    return Tokens(
        prompt=_whole(prompt),
        cached=_whole(inputs.cached_tokens) if inputs else 0,
        output=_whole(output),
        reasoning=_whole(outputs.reasoning_tokens) if outputs else 0,
    )


def _whole(number: Number) -> int:
    """A count of tokens, whatever the server wrote: never negative, never beyond what the ledger holds."""
    return min(max(int(number or 0), 0), _MOST_TOKENS)


class LineError(msgspec.Struct, omit_defaults=True, frozen=True):
    """The `error` of a result line. `attempts` and `failures` (by code) are those of a line that was given up."""

    code: str
    message: str
    attempts: int | None = None
    failures: dict[str, int] | None = None


def answered_line(
    identity: str, custom_id: bytes, status: int, upstream_id: str, body: bytes, error: LineError | None = None
) -> bytes:
    """A result line around an answer's own JSON on one line (no newline at its end). `error` if it is the last of
    several, or a redirect."""
    return b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":%b}' % (
        identity.encode(),
        custom_id,
        status,
        _encoder.encode(upstream_id.encode(errors="replace").decode()),
        body,
        b"null" if error is None else _encoder.encode(error),
    )


def unanswered_line(identity: str, custom_id: bytes, error: LineError) -> bytes:
    """A result line for a request that got no answer (no newline at its end)."""
    return b'{"id":"%b","custom_id":%b,"response":null,"error":%b}' % (
        identity.encode(),
        custom_id,
        _encoder.encode(error),
    )


def one_line_json(body: bytes) -> bytes:
    """`body` as JSON on one line; what is not JSON becomes an error object that quotes its beginning."""
    if not _is_json(body):
        text = body[:2000].decode(errors="replace")
        return _encoder.encode({"error": {"message": text, "type": "upstream_error", "param": None, "code": None}})
    return on_one_line(body)


def on_one_line(body: bytes) -> bytes:
    """JSON, such as an answer that `read_answer` has read, on one line."""
    return msgspec.json.format(body, indent=-1) if b"\n" in body or b"\r" in body else body


def _is_json(body: bytes) -> bool:
    try:
        if not body.isascii():
            body.decode()
        _raw_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


_raw_decoder = msgspec.json.Decoder(msgspec.Raw)
