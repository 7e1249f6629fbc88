"""Request bodies in the OpenAPI document: the gateway reads them itself, so FastAPI cannot see them."""

from typing import Any

from pydantic import BaseModel

from batchyard.common.contracts.files import UPLOAD_PURPOSES


def json_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` for a route that takes `model` as JSON."""
    schema = model.model_json_schema()
    return _body("application/json", _inlined(schema, schema.pop("$defs", {})), required=required)


def file_body() -> dict[str, Any]:
    """`openapi_extra` for a file's form."""
    text = {"type": "string"}
    return _body(
        "multipart/form-data",
        {
            "type": "object",
            "required": ["file", "purpose"],
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "purpose": {"type": "string", "enum": [str(purpose) for purpose in UPLOAD_PURPOSES]},
                "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                "model": {**text, "description": "The model that the file's lines are for; goes into the ID"},
                "target_model_names": {**text, "description": "LiteLLM's name for `model`; one model for now"},
            },
        },
    )


def part_body() -> dict[str, Any]:
    """`openapi_extra` for the form of an upload's part."""
    data = {"type": "string", "format": "binary"}
    return _body("multipart/form-data", {"type": "object", "required": ["data"], "properties": {"data": data}})


def _body(content_type: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {content_type: {"schema": schema}}}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references: they would point into the wrong document."""
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(item, definitions) for key, item in value.items()}
