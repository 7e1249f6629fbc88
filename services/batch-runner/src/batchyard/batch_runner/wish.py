"""What can be said of the wish for a batch before its lines are read."""

from batchyard.batch_runner.validate import normal_path
from batchyard.common.contracts.batches import ENDPOINTS, BatchWish
from batchyard.common.contracts.files import File, Purpose
from batchyard.common.errors import InvalidRequest
from batchyard.common.object_keys import parse_file_key
from batchyard.common.windows import window_seconds

_SOURCES = ("input_file_id", "requests", "upload_key")


def check_source(tenant: str, wish: BatchWish) -> None:
    """Raise InvalidRequest unless one thing says what the lines are, and it is the tenant's."""
    given = [name for name in _SOURCES if getattr(wish, name) is not None]
    if not given:
        raise InvalidRequest(
            "Missing required parameter: 'input_file_id'.", param="input_file_id", code="missing_required_parameter"
        )
    if len(given) > 1:
        message = f"Only one of '{given[0]}' and '{given[1]}' can be given."
        raise InvalidRequest(message, param=given[1], code="mutually_exclusive_parameters")
    if wish.upload_key is not None and _owner(wish.upload_key) != tenant:
        raise InvalidRequest(f"No such upload: {wish.upload_key}", param="upload_key")


def endpoint_of(wish: BatchWish) -> str:
    """The endpoint, beginning with `/v1/`. Raises InvalidRequest for one that no batch can have."""
    path = normal_path(wish.endpoint)
    if path not in ENDPOINTS:
        names = ", ".join(f"'{name}'" for name in ENDPOINTS[:-1])
        message = f"Invalid value: '{wish.endpoint}'. Supported values are: {names}, and '{ENDPOINTS[-1]}'."
        raise InvalidRequest(message, param="endpoint", code="invalid_value")
    return path


def seconds_of(window: str) -> int:
    """A completion window in seconds. Raises InvalidRequest."""
    try:
        return window_seconds(window)
    except ValueError as error:
        raise InvalidRequest(str(error), param="completion_window", code="invalid_value") from error


def check_purpose(file_id: str, file: File, param: str = "input_file_id") -> None:
    """Raise InvalidRequest for a file that was not uploaded as the input of a batch; `param` is what named it."""
    if file.purpose is not Purpose.BATCH:
        raise InvalidRequest(
            f"The file '{file_id}' has the purpose '{file.purpose}'; a batch needs a file uploaded with the "
            "purpose 'batch'.",
            param=param,
            code="invalid_value",
        )


def _owner(upload_key: str) -> str | None:
    try:
        return parse_file_key(upload_key)[0]
    except ValueError:
        return None
