"""An endpoint of webhooks, as it is recorded, and what changes it."""

import base64
import secrets

from pydantic import Field

from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.base import Contract

_SECRET_BYTES = 32
_OVERLAP_SECONDS = 24 * 3600
_SKEW_SECONDS = 60  # by which services' clocks may differ

OPERATOR = ALL_TENANTS
"""Whose endpoints hear of all teams: those of who has the master key and acts for none."""


class WebhookEndpoint(Contract):
    """Where events are sent. Times are Unix seconds.

    The secrets are kept as they are, since every delivery is signed with them: only the gateway's user of NATS may read
    this bucket.

    Attributes:
        event_types: Of what it hears.
        signing_secret: `whsec_` and base64 of 32 random bytes.
        old_secret: What deliveries are signed with as well until `old_secret_expires_at`.
        disabled_at: When it answered that it is gone; nothing is sent there until it is given a URL again.
    """

    id: str
    name: str
    url: str
    event_types: tuple[str, ...]
    signing_secret: str = Field(repr=False)
    old_secret: str | None = Field(default=None, repr=False)
    old_secret_expires_at: float | None = None
    created_at: float
    updated_at: float
    disabled_at: float | None = None

    def secrets_at(self, now: float) -> tuple[str, ...]:
        """What a delivery is signed with, the newest first."""
        if self.old_secret is None or self.old_secret_expires_at is None or self.old_secret_expires_at <= now:
            return (self.signing_secret,)
        return (self.signing_secret, self.old_secret)

    def hears(self, event_type: str, occurred_at: float) -> bool:
        """Whether an event is sent there: not one from before it was made."""
        is_new = occurred_at >= self.created_at - _SKEW_SECONDS
        return self.disabled_at is None and is_new and event_type in self.event_types

    def rotated(self, now: float, *, keep_old: bool) -> "WebhookEndpoint":
        """The same with a new secret, and the old one for 24 hours or no more."""
        return self.model_copy(
            update={
                "signing_secret": new_secret(),
                "old_secret": self.signing_secret if keep_old else None,
                "old_secret_expires_at": now + _OVERLAP_SECONDS if keep_old else None,
                "updated_at": now,
            }
        )


class TeamEndpoints(Contract):
    """All endpoints of a team, the oldest first: one record, so that no two can be made beyond the bound at once."""

    endpoints: tuple[WebhookEndpoint, ...] = ()


def new_secret() -> str:
    """A signing secret, in the form of https://www.standardwebhooks.com."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"
