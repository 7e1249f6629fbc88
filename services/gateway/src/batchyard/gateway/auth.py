"""API keys: who is asking."""

import hashlib
import hmac
from dataclasses import dataclass

from pydantic import SecretStr

from batchyard.common.contracts.access import DEFAULT_TENANT
from batchyard.common.errors import AuthenticationFailed
from batchyard.common.logs import get_logger

_SHOWN = 4
_LONG_ENOUGH_TO_SHOW = 20
_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a request acts for. `key_id` and `key_alias` name the key on the ledger; None where no key was needed."""

    tenant: str = DEFAULT_TENANT
    key_id: str | None = None
    key_alias: str | None = None


class Keyring:
    """The keys that open this gateway. Without any, everybody may do everything."""

    def __init__(self, master_key: SecretStr | None) -> None:
        self._master_key = None if master_key is None else master_key.get_secret_value().encode()

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._master_key is None

    def use(self, master_key: SecretStr | None) -> None:
        """Take another key. One that is there can be changed but not be taken away: an editor's slip must not open the
        gateway to everybody. It takes a restart to do so."""
        if master_key is None and self._master_key is not None:
            _log.error("auth.key_kept", detail="the configuration has no master key any more; the one before is kept")
            return
        self._master_key = None if master_key is None else master_key.get_secret_value().encode()

    def identify(self, presented: str | None) -> Identity:
        """Whose key was presented; the time this takes says nothing about how wrong a key is.

        Args:
            presented: The key as it stood in the header, decoded as Latin-1 as headers are.

        Raises:
            AuthenticationFailed: There is none, or it is not one of ours.
        """
        if self._master_key is None:
            return Identity()
        if not presented:
            raise AuthenticationFailed(_MISSING)
        if not hmac.compare_digest(presented.encode("latin-1"), self._master_key):
            raise AuthenticationFailed(f"Incorrect API key provided: {mask(presented)}.", code="invalid_api_key")
        return Identity(key_id=hashlib.sha256(self._master_key).hexdigest(), key_alias="master")


def mask(key: str) -> str:
    """A key as it may be shown: enough to recognise a long one, nothing of a short one."""
    if len(key) < _LONG_ENOUGH_TO_SHOW:
        return "***"
    return f"{key[:_SHOWN]}***{key[-_SHOWN:]}"
