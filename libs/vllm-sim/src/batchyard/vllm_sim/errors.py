"""What a request can be refused with, in the shapes vLLM uses.

SimError
├── EngineError         {"error": {"message", "type", "param", "code"}}
│   ├── SchemaError         400 "Bad Request"
│   ├── BadValueError       400 "BadRequestError"
│   ├── UnknownModelError   404 "NotFoundError"
│   ├── UnhealthyError      503 "ServiceUnavailableError"
│   └── FaultError          the status that a fault asks for
├── UnauthorizedError   401 {"error": "Unauthorized"}
└── RoutingError        {"detail"}: 404, 405, 413
"""

from http import HTTPStatus
from typing import Any

from batchyard.vllm_sim.faults import Fault
from batchyard.vllm_sim.request_log import REJECTED, UNHEALTHY

_TYPES = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.TOO_MANY_REQUESTS: "RateLimitError",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalServerError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
}


class SimError(Exception):
    """A request that is answered with an error; `body` is the JSON answered, `outcome` what the log says."""

    outcome: str = REJECTED

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = headers or {}


class EngineError(SimError):
    """An error in the shape of vLLM's engine and OpenAI's API."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        error = {"message": message, "type": type_ or error_type(status), "param": param, "code": status}
        super().__init__(status, {"error": error}, headers)


class SchemaError(EngineError):
    """The body is not JSON, or not of the route's schema."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(400, message, type_="Bad Request", param=param)


class BadValueError(EngineError):
    """A value the engine cannot work with, such as a prompt that is too long."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(400, message, param=param)


class UnknownModelError(EngineError):
    """A model that is not served."""

    def __init__(self, model: str) -> None:
        super().__init__(404, f"The model `{model}` does not exist.", param="model")


class UnhealthyError(EngineError):
    """The simulator was told to be unhealthy."""

    outcome = UNHEALTHY

    def __init__(self) -> None:
        super().__init__(503, "The simulated engine is unhealthy, as POST /sim/health asked")


class FaultError(EngineError):
    """A fault that answers with an error."""

    def __init__(self, fault: Fault, status: int) -> None:
        headers = None if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
        super().__init__(status, f"Simulated fault: status {status}", headers=headers)
        self.outcome = fault.outcome


class UnauthorizedError(SimError):
    """No API key, or a wrong one."""

    def __init__(self) -> None:
        super().__init__(401, {"error": "Unauthorized"})


class RoutingError(SimError):
    """Refused before any handler, in FastAPI's shape."""

    def __init__(self, status: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, {"detail": status.phrase}, headers)


def error_type(status: int) -> str:
    """Return the name vLLM gives to an HTTP status in an error body."""
    if status in _TYPES:
        return _TYPES[HTTPStatus(status)]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "SimulatedError"
