"""HTTP answers, and the checks that every route shares."""

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from batchyard.vllm_sim.errors import SimError, UnauthorizedError
from batchyard.vllm_sim.identity import SERVER
from batchyard.vllm_sim.settings import SimSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json", "Server": SERVER}
STREAM_HEADERS: Mapping[str, str] = {"Content-Type": "text/event-stream; charset=utf-8", "Server": SERVER}

_encode = json.JSONEncoder(separators=(",", ":")).encode


def json_bytes(value: object) -> bytes:
    """Return compact JSON, in ASCII so that lone surrogates from a client's prompt survive."""
    return _encode(value).encode("ascii")


def json_response(value: object, status: int = 200) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=json_bytes(value), status=status, headers=JSON_HEADERS)


def error_response(error: SimError) -> web.Response:
    """Return the answer to a refused request."""
    headers = {**JSON_HEADERS, **error.headers}
    return web.Response(body=json_bytes(error.body), status=error.status, headers=headers)


def check_key(request: web.Request, settings: SimSettings) -> None:
    """Refuse a request without the API key. As in vLLM, only paths that begin with /v1 ask for it.

    Raises:
        UnauthorizedError: if there is no key, or another one.
    """
    if settings.api_key is None or not request.path.startswith("/v1") or request.method == "OPTIONS":
        return
    sent = request.headers.get("Authorization", "")
    if not hmac.compare_digest(sent.encode(), f"Bearer {settings.api_key}".encode()):
        raise UnauthorizedError


def guarded(handler: Handler, settings: SimSettings) -> Handler:
    """Return the handler behind the key check, its refusals answered."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            check_key(request, settings)
            return await handler(request)
        except SimError as error:
            return error_response(error)

    return handle
