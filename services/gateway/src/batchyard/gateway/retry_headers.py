"""The headers by which a client says that a request repeats another."""

from starlette.requests import Request

from batchyard.common.contracts.batches import IDEMPOTENCY_KEY_CHARACTERS
from batchyard.common.errors import InvalidRequest

IDEMPOTENCY_KEY = "Idempotency-Key"
RETRY_COUNT = "x-stainless-retry-count"

_MOST_DIGITS = 9


def idempotency_key(request: Request) -> str | None:
    """The key under which a request is done at most once. Raises InvalidRequest for one that cannot be kept."""
    keys = {key.strip() for key in request.headers.getlist(IDEMPOTENCY_KEY)}
    if not keys:
        return None
    if len(keys) > 1:
        raise InvalidRequest(
            f"'{IDEMPOTENCY_KEY}' was given several times with different values.", param=IDEMPOTENCY_KEY
        )
    (key,) = keys
    if not 0 < len(key) <= IDEMPOTENCY_KEY_CHARACTERS:
        message = (
            f"Invalid '{IDEMPOTENCY_KEY}': a key has 1 to {IDEMPOTENCY_KEY_CHARACTERS} characters, not {len(key)}."
        )
        code = "string_above_max_length" if key else "string_below_min_length"
        raise InvalidRequest(message, param=IDEMPOTENCY_KEY, code=code)
    return key


def retries_of(request: Request) -> int | None:
    """How often the client has sent this request before, as the OpenAI SDKs say it; None when it does not say."""
    said = request.headers.get(RETRY_COUNT, "")
    return int(said) if said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS else None
