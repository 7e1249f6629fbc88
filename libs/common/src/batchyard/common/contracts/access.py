"""Who may do how much: teams and their keys, as the gateway records them.

A team is a tenant: its ID is the tenant's token in subjects. The records of teams are published in a bucket that the
gateway alone writes and other services watch; what concerns a key travels with the commands made under it.
"""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from batchyard.common.contracts.base import Contract

DEFAULT_TENANT = "default"
ALL_TENANTS = "*"
"""The tenant of commands that concern all teams: whoever may send those administrates. No team has this ID."""

Amount = Annotated[Decimal, Field(ge=0), WithJsonSchema({"type": "string", "format": "decimal"})]
"""Money as it is written; a number is read as well."""


class Limits(Contract):
    """Bounds of a key or a team. None: none.

    Attributes:
        max_budget: What may be spent in a period, in the currency of the prices; new batches are refused beyond it.
        soft_budget: What may be spent before an event warns.
        budget_duration: The period after which spending counts from zero again, as `30s`, `30m`, `24h`, `30d` or
            `1mo`; None: for ever.
        rpm_limit: Requests to the gateway per minute.
        tpm_limit: Tokens of new batches per minute, as estimated when they are made.
        max_parallel_requests: Requests that the gateway answers at a time.
        max_batches: Batches that have not ended.
        max_enqueued_lines: Lines of such batches.
        max_enqueued_tokens: Their estimated tokens.
        max_storage_bytes: Of all files.
    """

    max_budget: Amount | None = None
    soft_budget: Amount | None = None
    budget_duration: str | None = Field(default=None, max_length=16)
    rpm_limit: int | None = Field(default=None, ge=0)
    tpm_limit: int | None = Field(default=None, ge=0)
    max_parallel_requests: int | None = Field(default=None, ge=0)
    max_batches: int | None = Field(default=None, ge=0)
    max_enqueued_lines: int | None = Field(default=None, ge=0)
    max_enqueued_tokens: int | None = Field(default=None, ge=0)
    max_storage_bytes: int | None = Field(default=None, ge=0)


class Team(Contract):
    """A tenant. Times are Unix seconds.

    Attributes:
        models: The models its keys may name, aliases and patterns included; none: all.
        limits: Of all its keys together.
        model_limits: Of single models, by the name they are shown under; only what concerns batches counts here.
        pause_over_budget: Whether batches that run are paused when the budget is spent.
        blocked: Whether its keys are refused.
    """

    team_id: str = Field(min_length=1, max_length=128)
    team_alias: str | None = Field(default=None, max_length=256)
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    model_limits: dict[str, Limits] = Field(default_factory=dict)
    pause_over_budget: bool = False
    blocked: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: float
    updated_at: float


class Secret(Contract):
    """One of a key's secrets; itself it is nowhere. Times are Unix seconds.

    Attributes:
        digest: Its SHA-256 in hex.
        expires_at: When it stops to work though the key goes on: a rotated one does so after its overlap. None: never.
    """

    digest: str
    expires_at: float | None = None


class Key(Contract):
    """An API key. Times are Unix seconds.

    Attributes:
        key_id: What the key is known by for as long as it lives, on the ledger too: the digest of its first secret.
        key_name: The newest secret as it may be shown: its beginning and its last characters.
        secrets: Those that open the gateway, the newest first: a rotation adds one.
        models: The models it may name, within what its team may; none: all of those.
        pause_over_budget: Whether its batches that run are paused when its budget is spent.
        expires_at: When it stops to work by itself. None: never.
    """

    key_id: str
    key_name: str
    secrets: tuple[Secret, ...] = ()
    key_alias: str | None = Field(default=None, max_length=256)
    team_id: str = DEFAULT_TENANT
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    pause_over_budget: bool = False
    blocked: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: float
    updated_at: float
    expires_at: float | None = None


class PausingKey(Contract):
    """A key whose batches pause when its budget is spent: what others than the gateway must know of it beside the
    commands made under it, as a budget may be raised while they run."""

    key_id: str
    team_id: str
    limits: Limits
