"""Reading `config.yaml`: LiteLLM's keys, `os.environ/NAME` references, and a clear word on what is wrong."""

import hashlib
from collections.abc import Iterator, Mapping
from decimal import Decimal, localcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchyard.common.config.document import Document, KeyPath, Place, read_document
from batchyard.common.config.model import ANY_MODEL, Alias, BatchMode, Config, Deployment, Price
from batchyard.common.config.names import WILDCARD, bare
from batchyard.common.config.references import Unset, fallback_base, fallback_master_key, resolved, secret
from batchyard.common.config.schema import File, ModelEntry, Section
from batchyard.common.errors import ConfigurationError


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`, or the one-server setup that `HOSTED_VLLM_API_BASE` names.

    Raises:
        ConfigurationError: The file is missing, is not YAML, or keys have wrong values; the message has a line
            `file:line:column: key: what is wrong` for each of them, and no value that may be secret.
    """
    if path is None:
        return _from_environment(environ)
    document = read_document(path)
    problems = _Problems(document)
    file = _parse(document, environ, problems)
    fallback = fallback_base(environ)
    deployments: list[Deployment] = []
    for index, entry in enumerate(file.model_list):
        base = entry.litellm_params.api_base or fallback
        if base:
            deployments.append(_deployment(entry, _server_root(base), environ))
        else:
            where = ("model_list", str(index), "litellm_params", "api_base")
            problems.add(where, "is missing and HOSTED_VLLM_API_BASE is not set")
    problems.raise_if_any()
    config = Config(
        deployments=tuple(deployments),
        aliases={
            alias: Alias(entry.model, entry.hidden) for alias, entry in file.router_settings.model_group_alias.items()
        },
        master_key=file.general_settings.master_key or fallback_master_key(environ),
        currency=file.batchyard_settings.currency,
        batch_discount=file.batchyard_settings.batch_discount,
        warnings=tuple(_warnings(document, file)),
    )
    _check_deployments(config, problems)
    _check_aliases(config, problems)
    problems.raise_if_any()
    return config


class _Problems:
    """All that is wrong with a file."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[tuple[Place, str]] = []

    def add(self, where: KeyPath, message: str, place: Place | None = None) -> None:
        at = place or self._document.place(where)
        self._found.append((at, f"{self._document.path}:{at}: {_dotted(where) or 'the file'}: {message}"))

    def raise_if_any(self) -> None:
        if self._found:
            raise ConfigurationError("\n".join(message for _, message in sorted(self._found)))


def _parse(document: Document, environ: Mapping[str, str], problems: _Problems) -> File:
    """The file's keys; raises what is wrong with their shape, since nothing further can be said of such a file."""
    for where, place in document.doubles:
        problems.add(where, "stands twice", place)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        problems.add((), f"must be a mapping with 'model_list', not a {type(data).__name__}")
        data = {}
    try:
        values = resolved(data, environ)
    except RecursionError as error:
        raise ConfigurationError(f"{document.path}: a value holds itself") from error
    try:
        return File.model_validate(values)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            where = tuple(str(part) for part in problem["loc"])
            unset = _value_at(values, where)
            if isinstance(unset, Unset):
                problems.add(where, f"refers to the environment variable {unset.variable}, which is not set")
            else:
                problems.add(where, problem["msg"].removeprefix("Value error, "))
        problems.raise_if_any()
        raise AssertionError("pydantic names what it refuses") from error


def _value_at(values: Any, where: KeyPath) -> Any:
    for part in where:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and part.isdigit():
            values = values[int(part)]
        else:
            break
    return values


def _dotted(where: KeyPath) -> str:
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in where).lstrip(".")


def _warnings(document: Document, file: File) -> Iterator[str]:
    for where, section in file.unknown_keys():
        yield f"{document.path}:{document.place(where)}: {_about_unknown(where, section)}"


def _about_unknown(where: KeyPath, section: type[Section]) -> str:
    if where[-1] in section.litellms:
        return f"LiteLLM's key '{_dotted(where)}' has no meaning in Batchyard and is ignored"
    close = get_close_matches(where[-1], section.model_fields, 1)
    return f"unknown key '{_dotted(where)}' is ignored" + (f"; did you mean '{close[0]}'?" if close else "")


def _from_environment(environ: Mapping[str, str]) -> Config:
    base = fallback_base(environ)
    master_key = fallback_master_key(environ)
    if not base:
        return Config(master_key=master_key)
    deployment = Deployment(
        id="hosted_vllm",
        pool=ANY_MODEL,
        model=ANY_MODEL,
        base_url=_server_root(base),
        api_key=secret(environ, "HOSTED_VLLM_API_KEY"),
    )
    return Config(deployments=(deployment,), master_key=master_key)


def _deployment(entry: ModelEntry, base_url: str, environ: Mapping[str, str]) -> Deployment:
    params = entry.litellm_params
    model = bare(params.model)
    identity = f"{entry.model_name}\n{model}\n{base_url}"
    return Deployment(
        id=entry.model_info.id or hashlib.sha256(identity.encode()).hexdigest()[:16],
        pool=entry.model_name,
        model=model,
        base_url=base_url,
        api_key=params.api_key or secret(environ, "HOSTED_VLLM_API_KEY"),
        timeout=params.timeout,
        max_parallel_requests=params.max_parallel_requests,
        rpm=params.rpm,
        tpm=params.tpm,
        weight=params.weight,
        priority=entry.model_info.priority,
        batch_mode=params.batch_mode or entry.model_info.batch_mode or BatchMode.REQUESTS,
        price=Price(
            input=params.input_cost_per_token,
            output=params.output_cost_per_token,
            cached=params.cache_read_input_token_cost,
            batch_input=params.input_cost_per_token_batches,
            batch_output=params.output_cost_per_token_batches,
            batch_cached=params.cache_read_input_token_cost_batches,
            second=_sum(params.input_cost_per_second, params.output_cost_per_second),
            gpu_hour=entry.model_info.cost_per_gpu_hour,
            gpus=entry.model_info.gpus,
        ),
    )


def _sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    if one is None or other is None:
        return other if one is None else one
    with localcontext(prec=1000):
        return one + other


def _check_deployments(config: Config, problems: _Problems) -> None:
    seen: set[str] = set()
    for index, deployment in enumerate(config.deployments):
        entry = ("model_list", str(index))
        if deployment.id in seen:
            message = "repeats an earlier entry (same model_info.id, or same model_name, model and api_base)"
            problems.add(entry, message)
        seen.add(deployment.id)
        if deployment.model != ANY_MODEL and deployment.model.count(WILDCARD) > deployment.pool.count(WILDCARD):
            problems.add((*entry, "litellm_params", "model"), "has more '*' than its model_name")


def _check_aliases(config: Config, problems: _Problems) -> None:
    for alias, target in config.aliases.items():
        where = ("router_settings", "model_group_alias", alias)
        if alias in config.pools:
            problems.add(where, "is the model_name of an entry of model_list, and cannot be an alias as well")
        elif _is_circular(alias, config):
            problems.add(where, f"leads back to itself by way of '{target.model}'")
        elif config.pool_for(alias) is None:
            problems.add(where, f"stands for '{target.model}', which no entry of model_list serves")


def _is_circular(alias: str, config: Config) -> bool:
    name = config.aliases[alias].model
    seen: set[str] = set()
    while name in config.aliases and name not in seen:
        if name == alias:
            return True
        seen.add(name)
        name = config.aliases[name].model
    return False


def _server_root(api_base: str) -> str:
    """`api_base` with or without `/v1` and trailing slashes names the same server."""
    return api_base.rstrip("/").removesuffix("/v1").rstrip("/")
