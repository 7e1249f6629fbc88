"""The bodies of `/key/…`.

Source: https://docs.litellm.ai/docs/proxy/virtual_keys and the `GenerateKeyRequest` and its kin of LiteLLM 1.109.
"""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from batchyard.common.contracts.access import DEFAULT_TENANT
from batchyard.gateway.access_request import AccessRequest, Duration, LimitFields, Metadata, Models
from batchyard.gateway.team_request import TeamId
from batchyard.gateway.validation import refuse

MAX_KEYS = 1000

Alias = Annotated[str, Field(min_length=1, max_length=256)]
KeyName = Annotated[str, Field(min_length=1, max_length=256, description="The key's ID, or a secret of it")]


class KeyFields(LimitFields):
    """What a key may do."""

    key_alias: Alias | None = Field(default=None, description="Names the key; no two keys may have the same")
    models: Models | None = Field(default=None, description="It may use these alone: names, aliases, patterns with `*`")
    pause_over_budget: bool | None = Field(default=None, description="Pause running batches when the budget is spent")
    metadata: Metadata | None = None
    blocked: bool | None = None


class GenerateKey(KeyFields):
    """A new key."""

    team_id: TeamId = Field(default=DEFAULT_TENANT, description="Whose files and batches it sees")
    duration: Duration | None = Field(default=None, description="How long it lives; null: for ever")


class UpdateKey(KeyFields):
    """What is to be otherwise. What is left out stays as it is; null takes a bound away."""

    key: KeyName
    duration: Duration | None = Field(default=None, description="How long it lives from now on; null: for ever")


class RegenerateKey(AccessRequest):
    """A new secret for a key."""

    key: KeyName
    grace_period: Duration | None = Field(
        default=None, description="How long the old secret works on; null: not at all"
    )


class NameKey(AccessRequest):
    """One key."""

    key: KeyName


class DeleteKeys(AccessRequest):
    """Keys, by whatever names them."""

    keys: Annotated[list[KeyName], Field(max_length=MAX_KEYS)] = Field(default_factory=list)
    key_aliases: Annotated[list[Alias], Field(max_length=MAX_KEYS)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if not self.keys and not self.key_aliases:
            refuse("At least one of 'keys' or 'key_aliases' must be given.", "missing_required_parameter")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        names = ("keys", "key_aliases")
        return {**schema, "anyOf": [{"required": [name], "properties": {name: {"minItems": 1}}} for name in names]}
