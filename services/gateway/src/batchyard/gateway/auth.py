"""API keys: who is asking."""

import hmac
from dataclasses import dataclass

from pydantic import SecretStr

from batchyard.common.clock import Clock
from batchyard.common.contracts.access import DEFAULT_TENANT, Key, Secret, Team
from batchyard.common.errors import AuthenticationFailed, NotFound, PermissionDenied
from batchyard.common.logs import get_logger
from batchyard.gateway.directory import Directory
from batchyard.gateway.key_secret import digest_of, mask

TEAM_HEADER = "x-batchyard-team"

_MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a request acts for.

    `key_alias` and `key_id` name the key on the ledger: the latter is None for the master key, whose digest is told to
    nobody as it may be short enough to be guessed; both are None where no key was needed. `key` and `team` are what is
    recorded of them, as it was when the request came in.
    """

    tenant: str = DEFAULT_TENANT
    key_alias: str | None = None
    key_id: str | None = None
    is_admin: bool = False
    key: Key | None = None
    team: Team | None = None


class Keyring:
    """The keys that open this gateway. Without a master key, everybody may do everything but administrate."""

    def __init__(self, master_key: SecretStr | None, directory: Directory, clock: Clock) -> None:
        self._master_key = _bytes_of(master_key)
        self._directory = directory
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._master_key is None

    def use(self, master_key: SecretStr | None) -> None:
        """Take another master key. One that is there can be changed but not be taken away: an editor's slip must not
        open the gateway to everybody. It takes a restart to do so."""
        if master_key is None and self._master_key is not None:
            _log.error("auth.key_kept", detail="the configuration has no master key any more; the one before is kept")
            return
        self._master_key = _bytes_of(master_key)

    def identify(self, presented: str | None, team_id: str | None = None) -> Identity:
        """Whose key was presented; the time this takes says nothing about how wrong a key is.

        Args:
            presented: The key as it stood in the header, decoded as Latin-1 as headers are.
            team_id: The team that is to be acted for; None: the key's own, or the first one.

        Raises:
            AuthenticationFailed: There is none, it is not one of ours, or it works no more.
            PermissionDenied: The key may not act for that team.
            NotFound: There is no such team.
        """
        if self._master_key is None:
            return self._acting_for(team_id, None)
        if not presented:
            raise AuthenticationFailed(_MISSING)
        secret = presented.encode("latin-1")
        if hmac.compare_digest(secret, self._master_key):
            return self._acting_for(team_id, "master")
        identity = self._identity_of(secret, presented)
        if team_id is not None and team_id != identity.tenant:
            raise PermissionDenied(f"Only the master key may act for another team ({TEAM_HEADER}).", param=TEAM_HEADER)
        return identity

    def _acting_for(self, team_id: str | None, key_alias: str | None) -> Identity:
        tenant = DEFAULT_TENANT if team_id is None else team_id
        if not self._directory.has_team(tenant):
            raise NotFound(f"No such team: {tenant[:128]}", param=TEAM_HEADER, code="team_not_found")
        return Identity(tenant, key_alias, is_admin=True, team=self._directory.teams.get(tenant))

    def _identity_of(self, presented: bytes, shown: str) -> Identity:
        # Found by its digest: how long that takes depends on nothing that tells the secret.
        digest = digest_of(presented)
        key = self._directory.keys.find(digest)
        secret = None if key is None else _secret_with(key, digest)
        if key is None or secret is None:
            raise AuthenticationFailed(f"Incorrect API key provided: {mask(shown)}.", code="invalid_api_key")
        now = self._clock.now()
        if any(end is not None and end <= now for end in (key.expires_at, secret.expires_at)):
            raise AuthenticationFailed(f"The API key {key.key_name} has expired.", code="expired_api_key")
        if key.blocked:
            raise AuthenticationFailed(f"The API key {key.key_name} is blocked.", code="blocked_api_key")
        team = self._directory.teams.get(key.team_id)
        if not self._directory.has_team(key.team_id) or (team is not None and team.blocked):
            raise AuthenticationFailed(f"The team of the API key {key.key_name} is blocked.", code="blocked_team")
        return Identity(key.team_id, key.key_alias, key.key_id, key=key, team=team)


def _bytes_of(master_key: SecretStr | None) -> bytes | None:
    return None if master_key is None else master_key.get_secret_value().encode()


def _secret_with(key: Key, digest: str) -> Secret | None:
    return next((secret for secret in key.secrets if hmac.compare_digest(secret.digest, digest)), None)
