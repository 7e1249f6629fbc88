"""The bodies of `POST /v1/uploads` and `POST /v1/uploads/{upload_id}/complete`.

Source: https://platform.openai.com/docs/api-reference/uploads
"""

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from batchyard.common.contracts.files import UPLOAD_PURPOSES, Purpose
from batchyard.common.contracts.uploads import MAX_PARTS
from batchyard.common.ids import is_raw_id
from batchyard.gateway.file_form import parse_purpose
from batchyard.gateway.intake import MAX_FILENAME_CHARACTERS
from batchyard.gateway.model_choice import MAX_MODEL_CHARACTERS
from batchyard.gateway.multipart import clean_filename
from batchyard.gateway.validation import invalid_request, refuse

_AS_IT_STANDS = ConfigDict(strict=True, extra="ignore")
_MD5 = re.compile("[0-9a-fA-F]{32}", re.ASCII)

M = TypeVar("M", bound=BaseModel)


def _purpose(value: str) -> str:
    return str(parse_purpose(value, UPLOAD_PURPOSES))


def _filename(value: str) -> str:
    return clean_filename(value) or refuse("'filename' must name a file.")


def _part_id(value: str) -> str:
    return value if is_raw_id("part", value) else refuse(f"No such Part object: {value[:100]}")


def _part_ids(value: list[str]) -> list[str]:
    if not value:
        refuse(
            "Invalid 'part_ids': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "empty_array",
        )
    if len(value) > MAX_PARTS:
        refuse(
            f"Invalid 'part_ids': array too long. Expected an array with maximum length {MAX_PARTS}, "
            f"but got an array with length {len(value)} instead.",
            "array_above_max_length",
        )
    return value


def _md5(value: str) -> str:
    return value if _MD5.fullmatch(value) else refuse("Invalid 'md5': expected 32 hexadecimal digits.")


class FileExpiresAfter(BaseModel):
    """When the file goes by itself: `seconds` after its creation."""

    model_config = _AS_IT_STANDS

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class UploadRequest(BaseModel):
    """What a client says about a file that will come in parts. Members that are not known are ignored."""

    model_config = _AS_IT_STANDS

    bytes: int = Field(ge=1)
    filename: Annotated[str, Field(min_length=1, max_length=MAX_FILENAME_CHARACTERS), AfterValidator(_filename)]
    mime_type: str = Field(max_length=255, description="Not used: content is served as it was sent")
    purpose: Annotated[str, AfterValidator(_purpose)] = Field(json_schema_extra={"enum": list(UPLOAD_PURPOSES)})
    expires_after: FileExpiresAfter | None = None
    model: str | None = Field(default=None, max_length=MAX_MODEL_CHARACTERS, description="Goes into the file's ID")

    @property
    def kind(self) -> Purpose:
        return Purpose(self.purpose)


class CompletionRequest(BaseModel):
    """Which parts make the file, in their order."""

    model_config = _AS_IT_STANDS

    part_ids: Annotated[
        list[Annotated[str, AfterValidator(_part_id)]],
        AfterValidator(_part_ids),
        Field(json_schema_extra={"minItems": 1, "maxItems": MAX_PARTS, "uniqueItems": True}),
    ]
    md5: Annotated[str, AfterValidator(_md5)] | None = None


def parse_upload_request(body: bytes) -> UploadRequest:
    """Raises InvalidRequest, in OpenAI's words."""
    return _parse(UploadRequest, body)


def parse_completion_request(body: bytes) -> CompletionRequest:
    """Raises InvalidRequest, in OpenAI's words."""
    return _parse(CompletionRequest, body)


def _parse(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from error
