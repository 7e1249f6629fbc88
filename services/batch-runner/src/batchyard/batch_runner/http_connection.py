"""One HTTP/1.1 connection to a server: one request at a time, and its whole answer.

Source: RFC 9112. The parser is llhttp, that of Node.js, as strict as it is unless told otherwise, though the RFC lets
clients take bare line feeds and folded headers: whoever reads them differently from the proxy in between ends an answer
at another byte than the proxy does, and takes what is left for the next line's answer.
"""

import asyncio
import zlib
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from batchyard.batch_runner.exchange import Answer, Broken, TooLarge, UpstreamError

_MOST_AROUND = 64 * 1024  # bytes before an answer's body, after it, or between two parts of it
_NO_CONTENT = 204
_SWITCHING_PROTOCOLS = 101
_UNENCODED = (b"", b"identity")
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS


class Connection(asyncio.Protocol):
    """A connection that is there already.

    Attributes:
        is_open: Whether another request may be sent, as far as is known.
        idle_since: The loop's second at which its owner last put it by.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._most = 0
        self._received = 0
        self._body_at = 0  # what had been received when the last part of the body came
        self._in_head = True
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""

    @property
    def has_received(self) -> bool:
        """Whether anything of the last request's answer has come."""
        return self._received > 0

    async def ask(self, request: bytes, *, most: int, until: float) -> Answer:
        """Send a whole request, and wait for its answer. A connection whose request failed or was given up is closed.

        Args:
            most: Bytes that the answer's body may have.
            until: The loop's second until which it may take.

        Raises:
            UpstreamError: Broken or TooLarge.
            TimeoutError: There was no whole answer by then.
        """
        if not self.is_open or self._transport is None:
            raise Broken("the server has closed the connection")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._most = most
        self._received = self._body_at = 0
        self._begin_answer()
        self._timer = loop.call_at(until, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._timer.cancel()
            self._answer = None

    def close(self) -> None:
        """End the connection at once. A server that still works on a request sees that nobody waits for it."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._transport = self._parser = None  # they know each other

    def eof_received(self) -> None:
        """The server says no more. The connection may outlast that, for as long as the server reads no request."""
        self._ended()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done() or self._parser is None:
            self.close()  # it says something that nobody has asked for
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(Broken(f"the server's answer is not HTTP/1.1: {error}"))
        if self._received - self._body_at > _MOST_AROUND:
            self._fail(Broken("the answer's headers have no end"))

    def on_message_begin(self) -> None:
        """The parser's: an answer begins; one that nobody has asked for comes right behind another one."""
        if self._answer is None or self._answer.done():
            self.is_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's: a header, or what comes after a body in chunks."""
        if self._in_head:
            self._headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        """The parser's: the body comes next."""
        assert self._parser is not None
        self._in_head = False
        self._status = self._parser.get_status_code()
        if self._status < 100 or self._status == _SWITCHING_PROTOCOLS:
            self._fail(Broken(f"the server's answer has the status {self._status:03}"))
        declared = self._headers.get(b"content-length")
        if declared is None:
            if self._headers.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
                self._fail(Broken("the answer is encoded in a way that was not asked for"))
        elif int(declared) > self._most:
            self._fail(self._too_large())

    def on_body(self, part: bytes) -> None:
        """The parser's: a part of the body."""
        self._body_at = self._received
        if len(self._body) + len(part) > self._most:
            self._fail(self._too_large())
        elif not self._body:
            self._body = part  # nearly always that is all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += part

    def on_message_complete(self) -> None:
        """The parser's: that was all of it."""
        if self._answer is None or self._answer.done() or self._parser is None:
            return
        if self._status < 200:  # 100 Continue and the like: the answer itself is still to come
            if self._body:
                self._fail(Broken(f"the server's answer of status {self._status} has a body"))
            self._begin_answer()
            return
        assert self._transport is not None
        # Who refuses may not have read the whole request, and reads the rest of it as the next one. How much is unsent
        # tells little: over TLS the transport does not know, and the kernel has a buffer of its own. And who has a body
        # for an answer that must have none (204, 304) sends it where the next answer is expected.
        has_read = self._status < 300 and not self._transport.get_write_buffer_size()
        self.is_open = has_read and self._status != _NO_CONTENT and self._parser.should_keep_alive()
        self._complete()

    def _begin_answer(self) -> None:
        self._in_head = True
        self._headers = {}
        self._body = b""

    def _ended(self, error: Exception | None = None) -> None:
        """Nothing more will come."""
        self.is_open = False
        if error is None and not self._in_head and self._ends_with_connection:
            self._complete()
        self._fail(Broken(str(error) if error else "the server closed the connection before the answer was there"))

    @property
    def _ends_with_connection(self) -> bool:
        return b"content-length" not in self._headers and b"transfer-encoding" not in self._headers

    def _complete(self) -> None:
        if self._answer is None or self._answer.done():
            return
        try:
            body = self._decoded(bytes(self._body))
        except UpstreamError as error:
            self._fail(error)
        else:
            self._answer.set_result(Answer(self._status, body, self._headers))
        self._body = b""

    def _decoded(self, body: bytes) -> bytes:
        """What a body says that is compressed although that was not asked for. Raises UpstreamError."""
        encoding = self._headers.get(b"content-encoding", b"").strip().lower()
        if encoding in _UNENCODED or not body:
            return body
        if encoding not in (b"gzip", b"deflate"):
            raise Broken("the answer is encoded in a way that was not asked for")
        decompressor = zlib.decompressobj(_ZLIB_OR_GZIP)
        try:
            text = decompressor.decompress(body, self._most + 1)
        except zlib.error as error:
            raise Broken("the answer's encoding is broken") from error
        if len(text) > self._most:
            raise self._too_large()
        if not decompressor.eof or decompressor.unused_data:
            raise Broken("the answer's encoding is broken")
        return text

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the answer is larger than {self._most} bytes")

    def _fail(self, error: UpstreamError | TimeoutError) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
