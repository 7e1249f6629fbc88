"""What routes and the framework raise, turned into the envelope."""

from collections.abc import Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from batchyard.common.errors import ApiError, InvalidRequest, MethodNotAllowed, NotFound, ServiceUnavailable
from batchyard.common.logs import get_logger
from batchyard.common.objects import ObjectStoreUnavailable
from batchyard.gateway.errors import error_response
from batchyard.gateway.validation import invalid_request

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_log = get_logger(__name__)


async def on_api_error(_request: Request, error: ApiError) -> Response:
    return error_response(error)


async def on_invalid_parameter(_request: Request, error: RequestValidationError) -> Response:
    """A path or query parameter of the wrong kind: FastAPI's 422 is OpenAI's 400."""
    findings = [{**finding, "loc": finding["loc"][1:]} for finding in error.errors()]
    return error_response(invalid_request(findings))


async def on_http_exception(request: Request, error: HTTPException) -> Response:
    """What the router itself says: no such URL, or not with this method."""
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return error_response(NotFound(f"Invalid URL ({where})", code="unknown_url"))
    if error.status_code == 405:
        refused = MethodNotAllowed(
            f"Not allowed to {request.method} on {request.url.path}", code="method_not_supported"
        )
        return error_response(refused, {"allow": ", ".join(_allowed_methods(request))})
    return error_response(InvalidRequest(str(error.detail)))


async def on_object_store_unavailable(_request: Request, error: ObjectStoreUnavailable) -> Response:
    _log.error("objects.unavailable", error=str(error))
    return error_response(ServiceUnavailable("The object store did not answer. Please retry shortly."))


def _allowed_methods(request: Request) -> list[str]:
    # Starlette names the methods of the first route with this path only; there may be one route for each method.
    scope = {key: value for key, value in request.scope.items() if key != "fastapi"}
    return [
        method
        for method in _METHODS
        if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in request.app.routes)
    ]


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Any]] = {
    ApiError: on_api_error,
    RequestValidationError: on_invalid_parameter,
    HTTPException: on_http_exception,
    ObjectStoreUnavailable: on_object_store_unavailable,
}
