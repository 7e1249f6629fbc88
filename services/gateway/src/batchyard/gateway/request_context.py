"""What surrounds every request: its ID, its time, its line in the log, and the answer to a bug."""

import re
import secrets
from contextlib import ExitStack
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchyard.common.clock import Clock
from batchyard.common.errors import InternalError
from batchyard.common.logs import get_logger
from batchyard.gateway.errors import INTERNAL_ERROR, error_response

REQUEST_ID = "x-request-id"

_EXCHANGE = "batchyard.exchange"

_SANE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_CLIENT_CLOSED_REQUEST = 499
_log = get_logger(__name__)


class RequestContext:
    """ASGI middleware. It passes every message on at once: nothing is buffered."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._clock, _request_id(scope), send)
        scope[_EXCHANGE] = exchange
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self._app(scope, receive, exchange.send)
            except ClientDisconnect:
                exchange.status = exchange.status or _CLIENT_CLOSED_REQUEST
            except Exception:  # noqa: BLE001  the outermost frame of a request: a bug is logged here, and answered
                _log.exception("http.failed", method=scope["method"], route=_route(scope))
                if exchange.status is None:
                    await error_response(InternalError(INTERNAL_ERROR))(scope, receive, exchange.send)
            finally:
                exchange.at_end.close()
                _log.info(
                    "http.request",
                    method=scope["method"],
                    route=_route(scope),
                    status=exchange.status,
                    ms=exchange.elapsed_ms,
                )


class Exchange:
    """One request and its answer. `status` is None until the answer has begun.

    `headers` are those that the answer is to have, whatever it is; `at_end` is closed once it has been sent.
    """

    def __init__(self, clock: Clock, request_id: str, send: Send) -> None:
        self._clock = clock
        self._started_at = clock.monotonic()
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.at_end = ExitStack()

    @property
    def elapsed_ms(self) -> int:
        return round((self._clock.monotonic() - self._started_at) * 1000)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self.headers)
            headers[REQUEST_ID] = self.request_id
            headers["openai-processing-ms"] = str(self.elapsed_ms)
        await self._send(message)


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that a request is part of."""
    exchange: Exchange = scope[_EXCHANGE]
    return exchange


def new_request_id() -> str:
    """An ID for a request that brought none."""
    return f"req_{secrets.token_hex(16)}"


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _SANE_ID.fullmatch(given) else new_request_id()


def _route(scope: Scope) -> str | None:
    """The route's template, never the path itself: a log must not grow a name for every ID."""
    route: Any = scope.get("route")
    return getattr(route, "path_format", None)
