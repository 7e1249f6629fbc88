"""The one hierarchy of errors, the same at both doors: HTTP clients and NATS clients see one body.

BatchyardError
├── ConfigurationError          the operator's files or environment are wrong
└── ApiError                    an answer to a caller; knows its status and code
    ├── InvalidRequest          400
    │   └── PayloadTooLarge     413
    ├── AuthenticationFailed    401
    ├── PermissionDenied        403
    ├── NotFound                404
    │   └── MethodNotAllowed    405
    ├── Conflict                409
    ├── TooManyRequests         429
    │   └── QuotaExceeded       429, of a type of its own: waiting does not help
    ├── InternalError           500
    └── ServiceUnavailable      503
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class BatchyardError(Exception):
    """Root of everything Batchyard raises on purpose."""


class ConfigurationError(BatchyardError):
    """The configuration cannot be used; the message says which file and key."""


class ErrorBody(BaseModel):
    """The body of OpenAI's error envelope, plus what a caller over NATS needs to act on it.

    Source: https://platform.openai.com/docs/guides/error-codes. `http_status` and `retry_after` (seconds) are
    turned into the status line and the `Retry-After` header by the gateway and are not part of its JSON.
    """

    model_config = ConfigDict(frozen=True)

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    http_status: int
    retry_after: int | None = None


class ApiError(BatchyardError):
    """An error that a caller may see: it holds no secret and no stack trace.

    Args:
        message: A sentence that says what was wrong and, where it helps, what to do.
        param: The name of the field at fault, dotted (`metadata.tags`).
        code: A stable machine-readable word, where one exists.
        retry_after: Seconds after which the same call may succeed.
    """

    http_status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after = retry_after

    def body(self) -> ErrorBody:
        """The error as it travels in a NATS reply."""
        return ErrorBody(
            message=self.message,
            type=self.type,
            param=self.param,
            code=self.code,
            http_status=self.http_status,
            retry_after=self.retry_after,
        )

    @staticmethod
    def from_body(body: ErrorBody) -> "ApiError":
        """The error that `body` came from, as the class its status names."""
        kind = _BY_STATUS.get(body.http_status, InternalError)
        if kind is TooManyRequests and body.type == QuotaExceeded.type:
            kind = QuotaExceeded
        return kind(body.message, param=body.param, code=body.code, retry_after=body.retry_after)


class InvalidRequest(ApiError):
    http_status = 400
    type = "invalid_request_error"


class PayloadTooLarge(InvalidRequest):
    http_status = 413


class AuthenticationFailed(ApiError):
    http_status = 401
    type = "invalid_request_error"


class PermissionDenied(ApiError):
    http_status = 403
    type = "invalid_request_error"


class NotFound(ApiError):
    http_status = 404
    type = "invalid_request_error"


class MethodNotAllowed(NotFound):
    http_status = 405


class Conflict(ApiError):
    http_status = 409
    type = "invalid_request_error"


class TooManyRequests(ApiError):
    http_status = 429
    type = "requests"
    default_code = "rate_limit_exceeded"


class QuotaExceeded(TooManyRequests):
    """What was granted is used up. Not to be sent again by itself: the SDKs would, at every other 429."""

    type = "insufficient_quota"
    default_code = "insufficient_quota"


class InternalError(ApiError):
    http_status = 500
    type = "server_error"


class ServiceUnavailable(ApiError):
    http_status = 503
    type = "server_error"
    default_code = "service_unavailable"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = 2,
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after)


_BY_STATUS: dict[int, type[ApiError]] = {
    kind.http_status: kind
    for kind in (
        InvalidRequest,
        PayloadTooLarge,
        AuthenticationFailed,
        PermissionDenied,
        NotFound,
        MethodNotAllowed,
        Conflict,
        TooManyRequests,
        InternalError,
        ServiceUnavailable,
    )
}
