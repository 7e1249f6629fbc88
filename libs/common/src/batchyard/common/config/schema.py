"""The keys of `config.yaml`: LiteLLM's, as far as they mean something here, and Batchyard's own.

The descriptions are the reference in docs/configuration.md.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from batchyard.common.config import litellm_keys
from batchyard.common.config.document import KeyPath
from batchyard.common.config.model import BatchMode
from batchyard.common.config.names import bare, is_pattern
from batchyard.common.config.references import header_key, must_be_a_server
from batchyard.common.subjects import encode_token

NAME_CHARACTERS = 512


def _header_key(value: SecretStr) -> SecretStr:
    return SecretStr(header_key(value.get_secret_value()))


Key = Annotated[SecretStr, AfterValidator(_header_key)]


class Section(BaseModel):
    """A mapping of the file. `litellms` are keys that LiteLLM knows there and that mean nothing to Batchyard."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    litellms: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, value: Any) -> Any:
        """A key with nothing after it, as when all below it is commented out, counts as absent."""
        if not isinstance(value, dict):
            raise ValueError(f"must be a mapping, not a {type(value).__name__}")  # noqa: TRY004  for pydantic
        return {str(key): item for key, item in value.items() if item is not None or str(key) not in cls.model_fields}

    def unknown_keys(self, where: KeyPath = ()) -> Iterator[tuple[KeyPath, "type[Section]"]]:
        """The keys that mean nothing, with the section that each stands in."""
        for key in self.model_extra or {}:
            yield (*where, key), type(self)
        for name in type(self).model_fields:
            yield from _unknown_below(getattr(self, name), (*where, name))


def _unknown_below(value: object, where: KeyPath) -> Iterator[tuple[KeyPath, type[Section]]]:
    if isinstance(value, Section):
        yield from value.unknown_keys(where)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unknown_below(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_below(item, (*where, str(index)))


class LiteLLMParams(Section):
    """`model_list[].litellm_params`: the server."""

    litellms: ClassVar = litellm_keys.PARAMS

    model: str = Field(
        min_length=1,
        description="`hosted_vllm/` and the name the server itself knows (`--served-model-name`); `*` takes the place "
        "of what the `*` of `model_name` matched",
    )
    api_base: str | None = Field(
        default=None,
        description="the server's own URL (redirects are not followed), with or without `/v1`; "
        "`HOSTED_VLLM_API_BASE` if absent",
    )
    api_key: Key | None = Field(
        default=None, description="as given to `vllm serve --api-key`; `HOSTED_VLLM_API_KEY` if absent"
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="seconds for one answer; `BATCHYARD_REQUEST_TIMEOUT` if absent",
    )
    max_parallel_requests: int | None = Field(
        default=None,
        ge=1,
        description="requests in flight to this server at most, from all runners together; "
        "`BATCHYARD_MAX_PARALLEL_REQUESTS`, from each runner, if absent",
    )
    rpm: int | None = Field(default=None, ge=1, description="requests per minute, from all runners together")
    tpm: int | None = Field(
        default=None, ge=1, description="tokens per minute, prompts included, from all runners together"
    )
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="its share of the model's requests")
    batch_mode: BatchMode | None = Field(
        default=None,
        description="`requests`: lines are sent one by one; `native`: the server has a Batch API of its own and gets "
        "whole batches; `auto`: it is asked which; that of `model_info` if absent, else `requests`",
    )
    input_cost_per_token: Decimal | None = Field(
        default=None, ge=0, description="price of a prompt token, in `batchyard_settings.currency`"
    )
    output_cost_per_token: Decimal | None = Field(default=None, ge=0, description="price of a generated token")
    cache_read_input_token_cost: Decimal | None = Field(
        default=None,
        ge=0,
        description="price of a prompt token that came from the prefix cache; that of other prompt tokens if absent",
    )
    input_cost_per_token_batches: Decimal | None = Field(
        default=None, ge=0, description="price of a prompt token in a batch; goes before the one above, undiscounted"
    )
    output_cost_per_token_batches: Decimal | None = Field(
        default=None, ge=0, description="price of a generated token in a batch; likewise"
    )
    cache_read_input_token_cost_batches: Decimal | None = Field(
        default=None, ge=0, description="price of a prompt token in a batch that came from the prefix cache; likewise"
    )
    input_cost_per_second: Decimal | None = Field(
        default=None, ge=0, description="price of a second of the batch's share of the server's time"
    )
    output_cost_per_second: Decimal | None = Field(default=None, ge=0, description="the same; both are added up")

    @field_validator("api_base")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return None if value is None else must_be_a_server(value)

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not bare(value):
            raise ValueError("names no model")
        return value


class ModelInfo(Section):
    """`model_list[].model_info`: what is known of the entry."""

    litellms: ClassVar = litellm_keys.MODEL_INFO

    id: str | None = Field(
        default=None,
        min_length=1,
        description="the server's name on the ledger and in logs; made from `model_name`, `model` and `api_base` if "
        "absent",
    )
    batch_mode: BatchMode | None = Field(
        default=None, description="as in `litellm_params`; here, LiteLLM does not pass it on to the server"
    )
    priority: int | None = Field(
        default=None,
        strict=True,
        description="sent with every request that has none, for a server that runs with "
        "`--scheduling-policy priority`: there the lowest goes first, and people's requests have 0",
    )
    cost_per_gpu_hour: Decimal | None = Field(
        default=None, ge=0, description="price of an hour of one GPU, paid for the batch's share of the server's time"
    )
    gpus: int = Field(default=1, ge=1, le=100_000, description="how many GPUs the server runs on")
    mode: str | None = Field(default=None, description="read for LiteLLM's sake; vLLM itself knows what it can do")


class ModelEntry(Section):
    """`model_list[]`: one server for one model. Entries with the same `model_name` share its work."""

    model_name: str = Field(
        min_length=1,
        max_length=NAME_CHARACTERS,
        description="the name clients ask for, or a pattern: `*`, `hosted_vllm/*`, `team-*`",
    )
    litellm_params: LiteLLMParams = Field(description="the server: see below")
    model_info: ModelInfo = Field(default=ModelInfo(), description="what is known of the entry: see below")

    @field_validator("model_name")
    @classmethod
    def _fits_a_subject(cls, value: str) -> str:
        encode_token(value)
        if not bare(value):
            raise ValueError("names no model")
        return value


class AliasEntry(Section):
    """`router_settings.model_group_alias.<alias>`: written as the name alone, or as a mapping."""

    model: str = Field(min_length=1, description="the model that the alias stands for: a name, or another alias")
    hidden: bool = Field(default=False, description="whether `GET /v1/models` leaves the alias out")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _is_one_model(cls, value: str) -> str:
        if is_pattern(value):
            raise ValueError("must be the name of one model, without '*'")
        return value


class RouterSettings(Section):
    """`router_settings`."""

    litellms: ClassVar = litellm_keys.ROUTER_SETTINGS

    model_group_alias: dict[str, AliasEntry] = Field(
        default={}, description="other names for models: `alias: model`, or `alias: {model: …, hidden: true}`"
    )

    @field_validator("model_group_alias", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return {str(alias): item for alias, item in value.items()} if isinstance(value, dict) else value


class GeneralSettings(Section):
    """`general_settings`."""

    litellms: ClassVar = litellm_keys.GENERAL_SETTINGS

    master_key: Key | None = Field(
        default=None,
        description="the key clients send as `Authorization: Bearer …`; `BATCHYARD_MASTER_KEY`, then "
        "`LITELLM_MASTER_KEY`, if absent; with none of them, whoever reaches the port is let in",
    )


class BatchyardSettings(Section):
    """`batchyard_settings`: what LiteLLM has no word for."""

    currency: str = Field(default="USD", min_length=1, max_length=16, description="of all prices")
    batch_discount: Decimal = Field(
        default=Decimal(0),
        ge=0,
        le=1,
        description="the share taken off prices that are not for batches; `0.5` halves them",
    )


class File(Section):
    """The whole file."""

    litellms: ClassVar = litellm_keys.SECTIONS

    model_list: list[ModelEntry] = Field(default=[], description="the servers, one entry for each and its model")
    router_settings: RouterSettings = Field(default=RouterSettings(), description="aliases: see below")
    general_settings: GeneralSettings = Field(default=GeneralSettings(), description="the master key: see below")
    batchyard_settings: BatchyardSettings = Field(default=BatchyardSettings(), description="Batchyard's own: see below")
