"""Keys and teams as the API shows them: LiteLLM's members, then ours. Times are ISO 8601, in UTC."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel

from batchyard.common.contracts.access import Key, Limits, Team
from batchyard.common.periods import period_or_ever


class ShownLimits(BaseModel):
    """Bounds; null: none. Amounts of money are in the currency of the prices."""

    max_budget: float | None = None
    soft_budget: float | None = None
    budget_duration: str | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None
    max_parallel_requests: int | None = None
    max_batches: int | None = None
    max_enqueued_lines: int | None = None
    max_enqueued_tokens: int | None = None
    max_storage_bytes: int | None = None


class ShownSpend(BaseModel):
    """`spend` is what was spent in the present period of `budget_duration`, which ends at `budget_reset_at`, or ever
    without one. `info` and `list` tell it; it is null in other answers, and while billing does not answer."""

    spend: float | None = None
    budget_reset_at: str | None = None


class ShownKey(ShownLimits, ShownSpend):
    """A key. `token` is its ID; `expires` is null for one that lives for ever, `old_secret_expires` while none is left
    over from a rotation."""

    token: str
    key_name: str
    key_alias: str | None
    team_id: str
    models: list[str]
    pause_over_budget: bool
    metadata: dict[str, Any]
    status: Literal["active", "blocked", "expired"]
    blocked: bool
    expires: str | None
    old_secret_expires: str | None
    created_at: str
    updated_at: str


class NewSecret(ShownKey):
    """A key with its new secret, which is shown this once."""

    key: str
    token_id: str


class KeyInfo(BaseModel):
    """A key, `key` being its ID."""

    key: str
    info: ShownKey


class KeyPage(BaseModel):
    """Keys, by their IDs or whole."""

    keys: list[str] | list[ShownKey]
    total_count: int
    current_page: int
    total_pages: int


class DeletedKeys(BaseModel):
    deleted_keys: list[str]


class ShownTeam(ShownLimits, ShownSpend):
    team_id: str
    team_alias: str | None
    models: list[str]
    model_limits: dict[str, ShownLimits]
    pause_over_budget: bool
    metadata: dict[str, Any]
    blocked: bool
    created_at: str
    updated_at: str


class TeamInfo(BaseModel):
    team_id: str
    team_info: ShownTeam
    keys: list[ShownKey]


class DeletedTeams(BaseModel):
    deleted_teams: list[str]


def shown_key(key: Key, now: float, spend: Decimal | None = None) -> ShownKey:
    return ShownKey(**_key(key, now), spend=_number(spend))


def with_secret(key: Key, secret: str, now: float) -> NewSecret:
    return NewSecret(**_key(key, now), key=secret, token_id=key.key_id)


def shown_team(team: Team, now: float, spend: Decimal | None = None) -> ShownTeam:
    return ShownTeam(
        **_limits(team.limits),
        spend=_number(spend),
        budget_reset_at=_reset(team.limits, now),
        team_id=team.team_id,
        team_alias=team.team_alias,
        models=list(team.models),
        model_limits={model: ShownLimits(**_limits(limits)) for model, limits in team.model_limits.items()},
        pause_over_budget=team.pause_over_budget,
        metadata=team.metadata,
        blocked=team.blocked,
        created_at=_moment(team.created_at),
        updated_at=_moment(team.updated_at),
    )


def _key(key: Key, now: float) -> dict[str, Any]:
    is_expired = key.expires_at is not None and key.expires_at <= now
    old = [secret.expires_at for secret in key.secrets[1:] if secret.expires_at is not None and secret.expires_at > now]
    return {
        **_limits(key.limits),
        "budget_reset_at": _reset(key.limits, now),
        "token": key.key_id,
        "key_name": key.key_name,
        "key_alias": key.key_alias,
        "team_id": key.team_id,
        "models": list(key.models),
        "pause_over_budget": key.pause_over_budget,
        "metadata": key.metadata,
        "status": "blocked" if key.blocked else "expired" if is_expired else "active",
        "blocked": key.blocked,
        "expires": None if key.expires_at is None else _moment(key.expires_at),
        "old_secret_expires": _moment(max(old)) if old else None,
        "created_at": _moment(key.created_at),
        "updated_at": _moment(key.updated_at),
    }


def _limits(limits: Limits) -> dict[str, Any]:
    return limits.model_dump()


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _reset(limits: Limits, now: float) -> str | None:
    end = period_or_ever(limits.budget_duration, now).end
    return None if end is None else _moment(end)


def _moment(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")
