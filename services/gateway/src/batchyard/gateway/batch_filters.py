"""The filters of a list of batches, as they stand in its URL."""

import re
from collections.abc import Iterable

from starlette.datastructures import QueryParams

from batchyard.common.contracts.batches import METADATA_PAIRS, BatchStatus
from batchyard.common.errors import InvalidRequest
from batchyard.gateway.validation import unsupported_value

_METADATA = re.compile(r"metadata\[(?P<key>[^\]]*)\]", re.DOTALL)
_KEY_CHARACTERS = 64
_VALUE_CHARACTERS = 512


def statuses(values: Iterable[str]) -> tuple[BatchStatus, ...]:
    """The statuses in `status` parameters, each one or several with commas between. Raises InvalidRequest."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if name not in set(BatchStatus):
            raise InvalidRequest(unsupported_value(name, BatchStatus), param="status", code="invalid_value")
    return tuple(dict.fromkeys(BatchStatus(name) for name in names))


def metadata(query: QueryParams) -> dict[str, str]:
    """The pairs in `metadata[key]=value` parameters. Raises InvalidRequest for what no batch's metadata can be."""
    pairs: dict[str, str] = {}
    for name, value in query.multi_items():
        if name == "metadata":
            raise _refused("A filter on metadata names its key: metadata[key]=value.")
        match = _METADATA.fullmatch(name)
        if match is None:
            continue
        key = match["key"]
        if not 0 < len(key) <= _KEY_CHARACTERS or len(value) > _VALUE_CHARACTERS:
            raise _refused(
                f"The keys of metadata have 1 to {_KEY_CHARACTERS} characters, the values at most {_VALUE_CHARACTERS}."
            )
        if pairs.setdefault(key, value) != value:
            raise _refused(f"'metadata[{key}]' was given several times with different values.", f"metadata.{key}")
    if len(pairs) > METADATA_PAIRS:
        raise _refused(f"A batch has at most {METADATA_PAIRS} pairs of metadata.")
    return pairs


def _refused(message: str, param: str = "metadata") -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': {message}", param=param, code="invalid_value")
