"""The body of `POST /v1/batches`.

Source: https://platform.openai.com/docs/api-reference/batch/create
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from batchyard.common.contracts.batches import ENDPOINTS
from batchyard.common.errors import InvalidRequest
from batchyard.common.windows import WINDOW_PATTERN, window_seconds
from batchyard.gateway.model_choice import MAX_MODEL_CHARACTERS
from batchyard.gateway.validation import invalid_request, missing, refuse, unsupported_value, whole

MAX_ID_CHARACTERS = 4096

_AS_IT_STANDS = ConfigDict(strict=True, extra="ignore")


def _endpoint(value: str) -> str:
    full = value if value.startswith("/v1/") else f"/v1{value}"
    return full if full in ENDPOINTS else refuse(unsupported_value(value, ENDPOINTS))


def _completion_window(value: str) -> str:
    try:
        window_seconds(value)
    except ValueError as error:
        refuse(str(error))
    return value


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
CompletionWindow = Annotated[
    str,
    AfterValidator(_completion_window),
    Field(examples=["24h", "1h", "7d"], json_schema_extra={"pattern": WINDOW_PATTERN}),
]


class OutputExpiresAfter(BaseModel):
    """When the output files go by themselves: `seconds` after their creation."""

    model_config = _AS_IT_STANDS

    anchor: Literal["created_at"]
    seconds: Annotated[int, BeforeValidator(whole)] = Field(ge=3600, le=2_592_000)


class BatchRequest(BaseModel):
    """What a client says about a new batch. Members that are not known are ignored, as SDKs add their own."""

    model_config = _AS_IT_STANDS

    input_file_id: str | None = Field(
        default=None, min_length=1, max_length=MAX_ID_CHARACTERS, description="The file with the lines"
    )
    requests: list[dict[str, Any]] | None = Field(
        default=None,
        min_length=1,
        description="The lines themselves, instead of a file: `custom_id`, `method` and `url` may be left out",
    )
    endpoint: Annotated[str, AfterValidator(_endpoint)] = Field(json_schema_extra={"enum": list(ENDPOINTS)})
    completion_window: CompletionWindow
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    output_expires_after: OutputExpiresAfter | None = None
    dry_run: bool | None = Field(default=None, description="Check everything, lines included, and make no batch")
    model: str | None = Field(
        default=None,
        max_length=MAX_MODEL_CHARACTERS,
        description="The model for lines that name none; the one in the file's ID goes before it",
    )


def parse_batch_request(body: bytes) -> BatchRequest:
    """Raises InvalidRequest, in OpenAI's words."""
    try:
        wanted = BatchRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from error
    if wanted.input_file_id is None and wanted.requests is None:
        if "input_file_id" in wanted.model_fields_set:
            raise invalid_request([{"type": "string_type", "loc": ("input_file_id",), "input": None}])
        raise missing("input_file_id")
    if wanted.input_file_id is not None and wanted.requests is not None:
        raise InvalidRequest(
            "Only one of 'input_file_id' and 'requests' can be given.",
            param="requests",
            code="mutually_exclusive_parameters",
        )
    return wanted
