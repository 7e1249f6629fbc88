"""One client's connection, below the requests: what is no HTTP, or too much of it, is refused in the envelope too."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from batchyard.common.errors import ApiError, BatchyardError, InvalidRequest
from batchyard.common.logs import get_logger
from batchyard.gateway.errors import HeadTooLarge, RequestTimeout, error_response
from batchyard.gateway.request_context import REQUEST_ID, new_request_id

_log = get_logger(__name__)


class _Refused(BatchyardError):
    """Ends the parsing of a request that is refused."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with bounds on a request's head: its size in bytes, and the seconds it may take to arrive.

    uvicorn itself keeps whatever a client sends before the first empty line, for as long as the client likes; and the
    parser keeps a field without an end, also one that comes after the body.
    """

    max_head_bytes: int
    head_timeout: float

    _refusal: ApiError | None = None
    _timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _has_parsed = False
    _head_bytes = 0
    _unparsed_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.head_timeout, self._on_head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._has_parsed = False
        super().data_received(data)
        if self._has_parsed and not self._is_in_head:
            self._unparsed_bytes = 0
            return
        self._unparsed_bytes += len(data)
        if self._unparsed_bytes > self.max_head_bytes:  # one field without an end: the parser has not named it yet
            self._refuse(HeadTooLarge(self.max_head_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = self._unparsed_bytes = 0
        if self._timer is None and self._is_idle:
            self._timer = self.loop.call_later(self.head_timeout, self._on_head_timeout)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._has_parsed = True
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_parsed = True
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_parsed = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up, also after a callback above has refused."""
        self._refuse(self._refusal or InvalidRequest(f"{msg} See RFC 9112 for what one looks like."))

    @property
    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.max_head_bytes:
            self._refusal = HeadTooLarge(self.max_head_bytes)
            raise _Refused

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self._is_in_head:
            self._refuse(RequestTimeout(f"The request's head did not arrive in {self.head_timeout:g} seconds."))
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ApiError) -> None:
        """Answer, unless an answer has begun already, and hang up."""
        if self.transport.is_closing():
            return
        if self._is_idle or not self.cycle.response_started:
            request_id = new_request_id()
            self.transport.write(_answer(error, request_id))
            _log.info("http.refused", status=error.http_status, request_id=request_id)
        self.transport.close()


def connection_class(max_head_bytes: int, head_timeout: float) -> type[Connection]:
    """The connections of one server: uvicorn makes them, and passes nothing of ours on."""
    bounds: dict[str, Any] = {"max_head_bytes": max_head_bytes, "head_timeout": head_timeout}
    return type(Connection.__name__, (Connection,), bounds)


def _answer(error: ApiError, request_id: str) -> bytes:
    response = error_response(error, {REQUEST_ID: request_id, "openai-processing-ms": "0", "connection": "close"})
    fields = b"".join(b"%b: %b\r\n" % field for field in response.raw_headers)
    return STATUS_LINE[error.http_status] + fields + b"\r\n" + bytes(response.body)
