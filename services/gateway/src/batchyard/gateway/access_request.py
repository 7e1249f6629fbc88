"""What the bodies of `/key/…` and `/team/…` have in common.

The names are LiteLLM's where it has them (https://docs.litellm.ai/docs/proxy/virtual_keys), and ours where it has none.
A member that would bound what a key may do, and that is not kept here, is refused: whoever set it would rely on it.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import from_json

from batchyard.common.contracts.access import Limits
from batchyard.common.errors import InvalidRequest
from batchyard.common.periods import check_duration
from batchyard.gateway.model_choice import MAX_MODEL_CHARACTERS
from batchyard.gateway.validation import invalid_request, refuse, whole

MAX_MODELS = 1000
MAX_METADATA_BYTES = 16_384
NO_LIMITS = Limits()
_MOST = 2**53
_DURATION = "^([1-9][0-9]{0,2}(s|m|h|d)|[1-9][0-9]?(w|mo))$"

IGNORED = frozenset(
    {
        *("user_id", "user_email", "organization_id", "project_id", "agent_id", "send_invite_email", "created_by"),
        *("updated_by", "tags", "spend", "config", "admins", "members", "members_with_roles", "key_type"),
    }
)
"""Members of LiteLLM's that name or describe, and bound nothing: accepted, and not kept."""

EVERY_MODEL = frozenset({"*", "all-team-models", "all-proxy-models"})
"""What LiteLLM writes for no bound on models."""

B = TypeVar("B", bound=BaseModel)


def _duration(value: str) -> str:
    try:
        check_duration(value)
    except ValueError as error:
        refuse(str(error))
    return value


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value)) > MAX_METADATA_BYTES:
        refuse(f"Invalid 'metadata': at most {MAX_METADATA_BYTES} bytes of JSON are kept.", "object_too_large")
    return value


def _models(value: list[str]) -> list[str]:
    return [] if EVERY_MODEL & set(value) else value


def _decimal(value: object) -> object:
    return Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value


Duration = Annotated[
    str,
    AfterValidator(_duration),
    Field(examples=["30m", "24h", "30d", "1mo"], json_schema_extra={"pattern": _DURATION}),
]
Count = Annotated[int, Field(ge=0, le=_MOST), BeforeValidator(whole)]
Money = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=0, le=10**12, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10**12}),
]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARACTERS)]
Models = Annotated[list[ModelName], AfterValidator(_models), Field(max_length=MAX_MODELS)]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]


class AccessRequest(BaseModel):
    """A body of which every member is known: a misspelt bound would bound nothing."""

    model_config = ConfigDict(extra="forbid")


class LimitFields(AccessRequest):
    """The bounds of a key, a team or a model; null or left out: none."""

    max_budget: Money | None = Field(default=None, description="New batches are refused once this is spent")
    soft_budget: Money | None = Field(default=None, description="An event warns once this is spent")
    budget_duration: Duration | None = Field(default=None, description="After which spending counts from zero again")
    rpm_limit: Count | None = Field(default=None, description="Requests per minute, counted by each gateway")
    tpm_limit: Count | None = Field(default=None, description="Tokens of new batches per minute")
    max_parallel_requests: Count | None = Field(default=None, description="Requests answered at a time by each gateway")
    max_batches: Count | None = Field(default=None, description="Batches that have not ended")
    max_enqueued_lines: Count | None = Field(default=None, description="Lines of such batches")
    max_enqueued_tokens: Count | None = Field(default=None, description="Their estimated tokens")
    max_storage_bytes: Count | None = Field(default=None, description="Bytes of all files")

    def limits(self, before: Limits = NO_LIMITS) -> Limits:
        """`before` with what this says."""
        return before.model_copy(update=given(self, LimitFields.model_fields))


def given(request: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Those of the members called `names` that the client has sent, null or not."""
    return {name: getattr(request, name) for name in names if name in request.model_fields_set}


def parse(model: type[B], body: bytes) -> B:
    """A body as `model`. Raises InvalidRequest, in OpenAI's words."""
    try:
        members = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(
            f"We could not parse the JSON body of your request: {error}.", code="invalid_json"
        ) from error
    if isinstance(members, dict):
        members = {name: value for name, value in members.items() if not _is_idle(model, name, value)}
    try:
        return model.model_validate(members, strict=True)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False)) from error


def _is_idle(model: type[BaseModel], name: str, value: object) -> bool:
    """Whether a member says nothing here: clients of LiteLLM send many that are empty."""
    return name not in model.model_fields and (name in IGNORED or value in (None, "", [], {}, False))
