"""The one envelope in which every error leaves, whoever raised it."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response

from batchyard.common.errors import ApiError, Conflict, InvalidRequest, QuotaExceeded, TooManyRequests

INTERNAL_ERROR = "The server had an error while processing your request."


class ErrorDetail(BaseModel):
    """Source: https://platform.openai.com/docs/guides/error-codes"""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    error: ErrorDetail


class RequestTimeout(ApiError):
    """The client stopped sending in the middle of a body."""

    http_status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class UnsupportedEncoding(InvalidRequest):
    """A body with a `Content-Encoding`."""

    http_status = 415


class HeadTooLarge(InvalidRequest):
    """The request's line and headers have more than `limit` bytes."""

    http_status = 431
    default_code = "request_head_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request's URL and headers are too large: at most {limit} bytes are accepted.")


class RangeNotSatisfiable(InvalidRequest):
    """A `Range` that holds no byte of the file, which is `size` bytes long."""

    http_status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"The requested range is not within the file's {size} bytes.", param="Range")
        self.size = size


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """`error` as OpenAI's clients expect it."""
    body = ErrorEnvelope(error=ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code))
    return Response(
        body.model_dump_json(),
        status_code=error.http_status,
        media_type="application/json",
        headers={**_headers_of(error), **(headers or {})},
    )


def _is_final(error: ApiError) -> bool:
    """Whether a status that is often worth another try is not worth one: of those a 429 says when it may succeed."""
    is_hopeless = isinstance(error, TooManyRequests) and error.retry_after is None
    return is_hopeless or isinstance(error, Conflict | QuotaExceeded)


def _headers_of(error: ApiError) -> dict[str, str]:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if _is_final(error):
        headers["x-should-retry"] = "false"  # the SDKs retry 409 and 429 by themselves
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RequestTimeout):
        headers["connection"] = "close"  # the rest of the body may still arrive, and is no next request
    if isinstance(error, UnsupportedEncoding):
        headers["accept-encoding"] = "identity"  # RFC 9110, section 15.5.16
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    return headers
