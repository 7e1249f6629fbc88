"""What a configuration takes from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from batchyard.common.errors import ConfigurationError

_REFERENCE = "os.environ/"
_HTTP = re.compile(r"https?://[^/\s]")
_NOT_HTTP = "must be an http:// or https:// URL"


@dataclass(frozen=True, slots=True)
class Unset:
    """Stands where a variable was named that is not set: no key that is read accepts it."""

    variable: str


def resolved(value: Any, environ: Mapping[str, str]) -> Any:
    """`value` with every `os.environ/NAME` in it replaced by the variable's value, or by `Unset`."""
    if isinstance(value, dict):
        return {key: resolved(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, environ) for item in value]
    if isinstance(value, str) and value.startswith(_REFERENCE):
        name = value.removeprefix(_REFERENCE)
        return environ[name] if name in environ else Unset(name)
    return value


def secret(environ: Mapping[str, str], name: str) -> SecretStr | None:
    """A secret variable; an empty one is none."""
    value = environ.get(name)
    return SecretStr(value) if value else None


def fallback_base(environ: Mapping[str, str]) -> str | None:
    """The server that `HOSTED_VLLM_API_BASE` names, if it names one. Raises ConfigurationError."""
    base = environ.get("HOSTED_VLLM_API_BASE")
    if base and not _HTTP.match(base):
        raise ConfigurationError(f"HOSTED_VLLM_API_BASE {_NOT_HTTP}")
    return base or None


def must_be_a_server(url: str) -> str:
    """`url`, if it is one that a server can have. Raises ValueError."""
    if not _HTTP.match(url):
        raise ValueError(_NOT_HTTP)
    return url
