"""`multipart/form-data` as a stream of events, in memory that does not grow with the body.

Source: RFC 7578 and https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from email.message import Message
from email.utils import unquote
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from batchyard.common.errors import InvalidRequest

_CONTENT_TYPE = b"multipart/form-data"
_UTF8 = frozenset({"utf-8", "utf8"})
_MAX_EPILOGUE_BYTES = 64 * 1024
_DIRECTORIES = re.compile(r".*[/\\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PartBegan:
    """The head of a part. `filename` is None for a plain field, and may be empty."""

    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    pass


Event = PartBegan | PartData | PartEnded


def boundary_of(content_type: str | None) -> bytes:
    """The boundary that a `Content-Type` header names.

    Raises:
        InvalidRequest: There is no header, it is of another type, or it names no boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind != _CONTENT_TYPE:
        raise InvalidRequest(
            f"Invalid Content-Type header ({content_type or 'none'}), expected 'multipart/form-data'. "
            "(HINT: with curl, use -F file=@path -F purpose=batch.)"
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidRequest("The Content-Type header names no boundary; let your HTTP library write that header.")
    return boundary


class MultipartDecoder:
    """Turns chunks of a body into events, however the chunks are cut."""

    def __init__(self, boundary: bytes) -> None:
        """Raises InvalidRequest for a boundary that is too long."""
        self._events: list[Event] = []
        self._field = bytearray()
        self._value = bytearray()
        self._disposition: bytes | None = None
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest("The boundary in the Content-Type header is too long.") from error

    @property
    def is_complete(self) -> bool:
        """Whether the closing boundary has been seen."""
        return self._is_complete

    def feed(self, chunk: bytes) -> list[Event]:
        """What `chunk` completes.

        Raises:
            InvalidRequest: This is not a form, or a part has no name.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"The request body is not valid multipart/form-data: {error}.") from error
        events, self._events = self._events, []
        return events

    def _on_part_begin(self) -> None:
        self._disposition = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        self._events.append(parse_disposition(self._disposition or b""))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _on_part_end(self) -> None:
        self._events.append(PartEnded())

    def _on_end(self) -> None:
        self._is_complete = True


async def decode_form(body: AsyncIterable[bytes], boundary: bytes) -> AsyncGenerator[Event, None]:
    """The events of a whole body.

    Raises:
        InvalidRequest: See `MultipartDecoder.feed`; also when the body ends before the form does, or long after it.
    """
    decoder = MultipartDecoder(boundary)
    epilogue = 0
    async for chunk in body:
        if decoder.is_complete:
            epilogue += len(chunk)
            if epilogue > _MAX_EPILOGUE_BYTES:
                raise InvalidRequest("The request body goes on after the end of the form.")
            continue
        for event in decoder.feed(chunk):
            yield event
    if not decoder.is_complete:
        raise InvalidRequest("The request body ended before the form was complete.")


Events = AsyncGenerator[Event, None]


async def parts_of(events: Events, max_parts: int) -> AsyncGenerator[PartBegan, None]:
    """The head of each part; what is not read of a part before the next one is asked for is skipped.

    Raises:
        InvalidRequest: There are more than `max_parts`.
    """
    count = 0
    async for event in events:
        if not isinstance(event, PartBegan):
            continue
        count += 1
        if count > max_parts:
            raise InvalidRequest(f"The form has more than {max_parts} fields.")
        yield event


async def part_data(events: Events) -> AsyncGenerator[bytes, None]:
    """The bytes of the part that has just begun."""
    async for event in events:
        if not isinstance(event, PartData):
            break
        yield event.data


async def read_field(name: str, events: Events, max_bytes: int) -> bytes:
    """The whole of the part that has just begun. Raises InvalidRequest when it has more than `max_bytes`."""
    value = bytearray()
    async for data in part_data(events):
        value += data
        if len(value) > max_bytes:
            raise InvalidRequest(f"A form field has more than {max_bytes} bytes.", param=name[:64])
    return bytes(value)


def parse_disposition(value: bytes) -> PartBegan:
    """Name and file name in a part's `Content-Disposition`: UTF-8, quoted pairs, `%22` and `filename*` are understood.

    Raises:
        InvalidRequest: It names no field, or cannot be read.
    """
    try:
        params = _params(_decoded(value))
    except (ValueError, TypeError) as error:  # a parameter in mixed pieces
        raise InvalidRequest("A part of the form has a Content-Disposition header that cannot be read.") from error
    if not params.get("name"):
        raise InvalidRequest("A part of the form has no name in its Content-Disposition header.")
    filename = params.get("filename")
    return PartBegan(params["name"], None if filename is None else clean_filename(filename))


def _params(value: str) -> dict[str, str]:
    header = Message()
    header["content-disposition"] = value.replace("\r", " ").replace("\n", " ")
    found: list[tuple[str, Any]] = header.get_params(failobj=[], header="content-disposition")
    params: dict[str, str] = {}
    for key, raw in found[1:]:
        # RFC 6266: `filename*` (a triple here) goes before `filename`, in whatever order they stand.
        if isinstance(raw, tuple) or key.lower() not in params:
            params[key.lower()] = _text_of(raw)
    return params


def clean_filename(name: str) -> str:
    """The last component of a path, without control characters: what may be shown and put into a header again."""
    base = _DIRECTORIES.sub("", name.replace("%22", '"'))
    return "".join(character for character in base if character.isprintable()).strip()


def _text_of(value: Any) -> str:
    """A parameter as text. RFC 8187 knows UTF-8; older writers used Latin-1, and no other charset is looked up."""
    if not isinstance(value, tuple):
        return unquote(value)
    charset, _, text = value
    if (charset or "").lower() not in _UTF8:
        return unquote(text)
    return unquote(text.encode("latin-1", "replace").decode(errors="replace"))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
