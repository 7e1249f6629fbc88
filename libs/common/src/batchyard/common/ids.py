"""IDs: time-ordered raw ones, and public ones that carry the model's name.

The public form is LiteLLM's, so that its tools can read ours: `file-` or `batch_`, then base64url without padding
of `litellm:<raw id>;model,<model name>`. LiteLLM cuts a model name at a `;`; here `;` (and the `%` that escapes it) is
percent-encoded, so that every name survives, while LiteLLM's plain form of any other name stays the same bytes.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Literal

from uuid_utils import UUID, uuid7

Kind = Literal["file", "batch", "upload", "part", "webhook_endpoint"]
ModelKind = Literal["file", "batch"]
"""The kinds whose IDs can carry a model."""

_PREFIX: dict[Kind, str] = {
    "file": "file-",
    "batch": "batch_",
    "upload": "upload_",
    "part": "part_",
    "webhook_endpoint": "we_",
}
_ENCODED = re.compile(r"(?:file-|batch_)([A-Za-z0-9_-]+)")
_PLAIN = re.compile(r"litellm:(?P<raw>.+?);model,(?P<model>[^;]+)", re.DOTALL)
_RAW = re.compile(r"(?:file-|batch_|upload_|part_|we_)(?P<uuid>[0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class ModelId:
    """What an ID says: the raw ID, and the model it carries, if any."""

    raw: str
    model: str | None


def new_raw_id(kind: Kind) -> str:
    """A fresh raw ID, e.g. `file-0192f0c1…` (32 hex digits of a UUIDv7): sorts by creation time."""
    return f"{_PREFIX[kind]}{uuid7().hex}"


def raw_id_of(kind: Kind, uuid_hex: str) -> str:
    """The raw ID of `kind` for a UUID that exists already (a place's becomes its file's)."""
    return f"{_PREFIX[kind]}{uuid_hex}"


def uuid_hex_of(raw_id: str) -> str:
    """The 32 hex digits in a raw ID. Raises ValueError for anything that is not a raw ID."""
    match = _RAW.fullmatch(raw_id)
    if match is None:
        raise ValueError(f"not a raw ID: {raw_id!r}")
    return match["uuid"]


def is_raw_id(kind: Kind, value: str) -> bool:
    """Whether `value` has the form that `new_raw_id(kind)` makes: safe as a key in KV and object store."""
    return _RAW.fullmatch(value) is not None and value.startswith(_PREFIX[kind])


def created_at_of(raw_id: str) -> int:
    """The Unix second at which a raw ID was made. Raises ValueError for anything that is not a raw ID."""
    return UUID(uuid_hex_of(raw_id)).timestamp // 1000


def encode_id(kind: ModelKind, raw: str, model: str | None) -> str:
    """The public ID of `raw`: itself when no model is known, else the form that carries `model`."""
    if model is None:
        return raw
    text = f"litellm:{_escape(raw)};model,{_escape(model)}"
    return _PREFIX[kind] + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_id(value: str) -> ModelId:
    """Read any ID. What is not a well-formed encoding is its own raw ID with no model."""
    match = _ENCODED.fullmatch(value)
    text = _decode_base64(match[1]) if match else None
    plain = _PLAIN.fullmatch(text) if text else None
    if plain is None:
        return ModelId(value, None)
    return ModelId(_unescape(plain["raw"]), _unescape(plain["model"]))


def _decode_base64(encoded: str) -> str | None:
    try:
        data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        text = data.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    canonical = base64.urlsafe_b64encode(data).decode().rstrip("=")
    return text if canonical == encoded else None


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace(";", "%3B")


def _unescape(text: str) -> str:
    return text.replace("%3B", ";").replace("%25", "%")
