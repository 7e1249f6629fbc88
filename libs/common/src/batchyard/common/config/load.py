"""Reading `config.yaml`: LiteLLM's keys, `os.environ/NAME` references, and a clear word on what is wrong."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from batchyard.common.config.model import ANY_MODEL, Config, Deployment, Price
from batchyard.common.errors import ConfigurationError
from batchyard.common.subjects import encode_token

_REFERENCE = "os.environ/"
_PROVIDER = "hosted_vllm/"
_HTTP = re.compile(r"https?://[^/\s]")
_NOT_HTTP = "must be an http:// or https:// URL"
_CONTENT = re.compile(r"'(?!<).+'", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML's own loader silently drops the first."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value} stands twice"
                    raise yaml.composer.ComposerError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_empty_keys(cls, value: Any) -> Any:
        """A key with nothing after it, as when all below it is commented out, counts as absent."""
        if not isinstance(value, dict):
            raise ValueError(f"must be a mapping, not a {type(value).__name__}")  # noqa: TRY004  for pydantic
        return {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}

    def unknown_keys(self, path: str) -> Iterator[str]:
        for key in self.model_extra or {}:
            yield f"{path}.{key}" if path else key
        for name in type(self).model_fields:
            value = getattr(self, name)
            inner = f"{path}.{name}" if path else name
            if isinstance(value, _Section):
                yield from value.unknown_keys(inner)
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, _Section):
                        yield from item.unknown_keys(f"{inner}[{index}]")


class _LiteLLMParams(_Section):
    model: str = Field(min_length=1)
    api_base: str | None = None
    api_key: SecretStr | None = None
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_parallel_requests: int | None = Field(default=None, ge=1)
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    input_cost_per_token: Decimal | None = Field(default=None, ge=0)
    output_cost_per_token: Decimal | None = Field(default=None, ge=0)
    cache_read_input_token_cost: Decimal | None = Field(default=None, ge=0)
    input_cost_per_token_batches: Decimal | None = Field(default=None, ge=0)
    output_cost_per_token_batches: Decimal | None = Field(default=None, ge=0)

    @field_validator("api_base")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not _HTTP.match(value):
            raise ValueError(_NOT_HTTP)
        return value

    @field_validator("model")
    @classmethod
    def _names_a_model(cls, value: str) -> str:
        if not value.removeprefix(_PROVIDER):
            raise ValueError("names no model")
        return value


class _ModelInfo(_Section):
    id: str | None = None
    mode: str | None = None


class _ModelEntry(_Section):
    model_name: str = Field(min_length=1, max_length=512)
    litellm_params: _LiteLLMParams
    model_info: _ModelInfo = _ModelInfo()

    @field_validator("model_name")
    @classmethod
    def _fits_a_subject(cls, value: str) -> str:
        encode_token(value)
        return value


class _GeneralSettings(_Section):
    master_key: SecretStr | None = None


class _BatchyardSettings(_Section):
    currency: str = "USD"
    batch_discount: Decimal = Field(default=Decimal(0), ge=0, le=1)


class _File(_Section):
    model_list: list[_ModelEntry] = []
    general_settings: _GeneralSettings = _GeneralSettings()
    batchyard_settings: _BatchyardSettings = _BatchyardSettings()


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`, or the one-server setup that `HOSTED_VLLM_API_BASE` names.

    Raises:
        ConfigurationError: The file is missing, is not YAML, or a key has a wrong value; the message says where.
    """
    if path is None:
        return _from_environment(environ)
    parsed = _parse(path, environ)
    deployments = tuple(_deployment(entry, index, path, environ) for index, entry in enumerate(parsed.model_list))
    _refuse_doubles(deployments, path)
    warnings = tuple(f"{path}: unknown key '{key}' is ignored" for key in parsed.unknown_keys(""))
    return Config(
        deployments=deployments,
        master_key=parsed.general_settings.master_key or _secret(environ, "BATCHYARD_MASTER_KEY"),
        currency=parsed.batchyard_settings.currency,
        batch_discount=parsed.batchyard_settings.batch_discount,
        warnings=warnings,
    )


def _from_environment(environ: Mapping[str, str]) -> Config:
    base = _fallback_base(environ)
    master_key = _secret(environ, "BATCHYARD_MASTER_KEY")
    if not base:
        return Config(master_key=master_key)
    deployment = Deployment(
        id="hosted_vllm",
        pool=ANY_MODEL,
        model=None,
        base_url=_server_root(base),
        api_key=_secret(environ, "HOSTED_VLLM_API_KEY"),
    )
    return Config(deployments=(deployment,), master_key=master_key)


def _parse(path: Path, environ: Mapping[str, str]) -> _File:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        # What a problem quotes may be a secret: a key that begins with `*` or `!`.
        problem = _CONTENT.sub("'…'", str(error.problem))
        raise ConfigurationError(f"{path}, line {line}: not valid YAML: {problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not valid YAML") from error
    if document is not None and not isinstance(document, dict):
        raise ConfigurationError(f"{path}: must be a mapping with 'model_list', not a {type(document).__name__}")
    # References below keys that are not read may name what only LiteLLM's own process has.
    resolved = {
        key: _resolve(value, str(key), path, environ) if key in _File.model_fields else value
        for key, value in (document or {}).items()
    }
    try:
        return _File.model_validate(resolved)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_sentences(path, error))) from error


def _sentences(path: Path, error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = ""
        for part in problem["loc"]:
            where += f"[{part}]" if isinstance(part, int) else f".{part}"
        yield f"{path}: {where.lstrip('.') or 'the file'}: {problem['msg']}"


def _resolve(value: Any, where: str, path: Path, environ: Mapping[str, str]) -> Any:
    """Replace every `os.environ/NAME` below `value` by the variable's value."""
    if isinstance(value, dict):
        return {key: _resolve(item, f"{where}.{key}".lstrip("."), path, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, f"{where}[{index}]", path, environ) for index, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(_REFERENCE):
        name = value.removeprefix(_REFERENCE)
        if name not in environ:
            raise ConfigurationError(f"{path}: {where} refers to the environment variable {name}, which is not set")
        return environ[name]
    return value


def _deployment(entry: _ModelEntry, index: int, path: Path, environ: Mapping[str, str]) -> Deployment:
    params = entry.litellm_params
    base = params.api_base or _fallback_base(environ)
    if not base:
        raise ConfigurationError(
            f"{path}: model_list[{index}].litellm_params.api_base is missing and HOSTED_VLLM_API_BASE is not set"
        )
    base_url = _server_root(base)
    model = params.model.removeprefix(_PROVIDER)
    identity = f"{entry.model_name}\n{model}\n{base_url}"
    return Deployment(
        id=entry.model_info.id or hashlib.sha256(identity.encode()).hexdigest()[:16],
        pool=entry.model_name,
        model=None if model == ANY_MODEL else model,
        base_url=base_url,
        api_key=params.api_key or _secret(environ, "HOSTED_VLLM_API_KEY"),
        timeout=params.timeout,
        max_parallel_requests=params.max_parallel_requests,
        rpm=params.rpm,
        tpm=params.tpm,
        weight=params.weight,
        price=Price(
            input=params.input_cost_per_token,
            output=params.output_cost_per_token,
            cached=params.cache_read_input_token_cost,
            batch_input=params.input_cost_per_token_batches,
            batch_output=params.output_cost_per_token_batches,
        ),
    )


def _refuse_doubles(deployments: tuple[Deployment, ...], path: Path) -> None:
    seen: set[str] = set()
    for index, deployment in enumerate(deployments):
        if deployment.id in seen:
            raise ConfigurationError(
                f"{path}: model_list[{index}] repeats an earlier entry (same model_info.id, or same model_name, "
                "model and api_base)"
            )
        seen.add(deployment.id)


def _fallback_base(environ: Mapping[str, str]) -> str | None:
    base = environ.get("HOSTED_VLLM_API_BASE")
    if base and not _HTTP.match(base):
        raise ConfigurationError(f"HOSTED_VLLM_API_BASE {_NOT_HTTP}")
    return base


def _server_root(api_base: str) -> str:
    """`api_base` with or without `/v1` and trailing slashes names the same server."""
    return api_base.rstrip("/").removesuffix("/v1").rstrip("/")


def _secret(environ: Mapping[str, str], name: str) -> SecretStr | None:
    value = environ.get(name)
    return SecretStr(value) if value else None
