"""What a configuration takes from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

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
    """A secret variable; an empty one is none. Raises ConfigurationError for one that is no key."""
    try:
        value = header_key(environ.get(name, ""))
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from error
    return SecretStr(value) if value else None


def fallback_master_key(environ: Mapping[str, str]) -> SecretStr | None:
    """The master key of the environment. LiteLLM's own variable counts: whoever comes from there is not to stand with
    open doors. Raises ConfigurationError."""
    return secret(environ, "BATCHYARD_MASTER_KEY") or secret(environ, "LITELLM_MASTER_KEY")


def fallback_base(environ: Mapping[str, str]) -> str | None:
    """The server that `HOSTED_VLLM_API_BASE` names, if it names one. Raises ConfigurationError."""
    base = environ.get("HOSTED_VLLM_API_BASE")
    if not base:
        return None
    try:
        return must_be_a_server(base)
    except ValueError as error:
        raise ConfigurationError(f"HOSTED_VLLM_API_BASE {error}") from error


def must_be_a_server(url: str) -> str:
    """`url`, if it is one that a server can have. Raises ValueError."""
    if not _HTTP.match(url) or not url.isprintable():
        raise ValueError(_NOT_HTTP)
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # which may quote a password
        is_whole = False
    if not is_whole:
        raise ValueError("must be a URL whose host and port can be connected to")
    return url


def header_key(value: str) -> str:
    """A key as a header carries it: the line break at the end of a file is no part of it. Raises ValueError."""
    key = value.strip()
    if not key.isprintable():
        raise ValueError("has a character that no HTTP header can carry, such as a line break within")
    return key
