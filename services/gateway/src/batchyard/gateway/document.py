"""The OpenAPI document: beyond what FastAPI finds out by itself, what every operation may answer, with its headers."""

from typing import Any

from fastapi import FastAPI

from batchyard.gateway.errors import ErrorEnvelope
from batchyard.gateway.request_context import REQUEST_ID

_METHODS = frozenset({"get", "post", "put", "patch", "delete"})
_INVENTED = frozenset({"422", "4XX", "5XX"})  # of FastAPI; the gateway says more exactly what it answers

_DESCRIPTIONS = {
    "400": "The request is at fault; `param` says where",
    "401": "No key, or a wrong one",
    "403": "The key may not do this, or not with this model",
    "404": "There is no such object, or it is another tenant's",
    "408": "The body stopped arriving",
    "409": "The object's status does not allow it; final: trying again changes nothing",
    "413": "The body is too large",
    "415": "The body has a `Content-Encoding`: send it as it is",
    "416": "The range holds no byte of the file",
    "429": "Too many requests, or too much at a time; `Retry-After` says when to try again",
    "500": "Batchyard is at fault",
    "503": "A service behind is away; `Retry-After` says when to try again",
}
_TEXT = {"type": "string"}
_SECONDS = {"type": "string", "pattern": "^[0-9]+$"}
_HEADERS: dict[str, Any] = {
    REQUEST_ID: {"description": "The request's ID: the client's own, or a new one", "schema": _TEXT},
    "openai-processing-ms": {"description": "Milliseconds until the answer began", "schema": _SECONDS},
    "www-authenticate": {"description": "The scheme of keys", "schema": {"type": "string", "const": "Bearer"}},
    "x-should-retry": {
        "description": "Tells OpenAI's SDKs not to try again",
        "schema": {"type": "string", "const": "false"},
    },
    "retry-after": {"description": "Seconds", "schema": _SECONDS},
    "accept-encoding": {
        "description": "The one encoding that is read",
        "schema": {"type": "string", "const": "identity"},
    },
    "content-range": {"description": "`bytes */<size>`", "schema": _TEXT},
}
_EVERYWHERE: tuple[str, ...] = (REQUEST_ID, "openai-processing-ms")
_OF_STATUS = {
    "401": ("www-authenticate",),
    "409": ("x-should-retry",),
    "415": ("accept-encoding",),
    "416": ("content-range",),
    "503": ("retry-after",),
}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorEnvelope"}}}


class Api(FastAPI):
    """FastAPI with a complete document."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = completed(super().openapi())
        return self.openapi_schema


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that refuses for reasons of its own, beyond those of `completed`."""
    return {status: {"model": ErrorEnvelope} for status in statuses}


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """`document`, changed in place: every operation names what it may answer.

    Whatever needs a key may meet a wrong one, a wrong parameter, a bug and an absent service; whatever has a path
    parameter may not find it; whatever reads a body may be sent too much of it, or too slowly.
    """
    components = document["components"]
    components["headers"] = {name: {**header, "required": True} for name, header in sorted(_HEADERS.items())}
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    for path, operations in document["paths"].items():
        for method in _METHODS & operations.keys():
            _complete(operations[method], has_path_parameter="{" in path)
    return document


def _complete(operation: dict[str, Any], *, has_path_parameter: bool) -> None:
    responses = {status: said for status, said in operation["responses"].items() if status not in _INVENTED}
    common = ["400", "401", "403", "429", "500", "503"] if "security" in operation else []
    if has_path_parameter:
        common.append("404")
    if "requestBody" in operation:
        common += ["408", "413", "415"]
    for status in common:
        responses.setdefault(status, {"content": _ERROR})
    operation["responses"] = {status: _response(status, responses[status]) for status in sorted(responses)}


def _response(status: str, said: dict[str, Any]) -> dict[str, Any]:
    names = _EVERYWHERE
    if said.get("content") == _ERROR:
        said = {**said, "description": _DESCRIPTIONS[status]}
        names += _OF_STATUS.get(status, ())
    return {**said, "headers": {**{name: _reference("headers", name) for name in names}, **said.get("headers", {})}}


def _reference(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
