"""The bodies of `/team/…`.

Source: https://docs.litellm.ai/docs/proxy/team_budgets and the `NewTeamRequest` and its kin of LiteLLM 1.109.
"""

from typing import Annotated

from pydantic import Field

from batchyard.common.contracts.access import Limits
from batchyard.gateway.access_request import AccessRequest, LimitFields, Metadata, ModelName, Models

MAX_TEAMS = 100

TeamId = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:@-]+$")]


class TeamFields(LimitFields):
    """What the keys of a team may do together."""

    team_alias: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(default=None, description="Its name")
    models: Models | None = Field(
        default=None, description="They may use these alone: names, aliases, patterns with `*`"
    )
    model_limits: Annotated[dict[ModelName, LimitFields], Field(max_length=1000)] | None = Field(
        default=None, description="Of single models; what concerns batches counts here"
    )
    pause_over_budget: bool | None = Field(default=None, description="Pause running batches when the budget is spent")
    metadata: Metadata | None = None
    blocked: bool | None = None

    def limits_of_models(self) -> dict[str, Limits]:
        """The bounds of single models."""
        return {model: fields.limits() for model, fields in (self.model_limits or {}).items()}


class NewTeam(TeamFields):
    """A new team."""

    team_id: TeamId | None = Field(default=None, description="A new one is made if it is left out")


class UpdateTeam(TeamFields):
    """What is to be otherwise. What is left out stays as it is; null takes a bound away."""

    team_id: TeamId


class NameTeam(AccessRequest):
    """One team."""

    team_id: TeamId


class DeleteTeams(AccessRequest):
    """Teams."""

    team_ids: Annotated[list[TeamId], Field(min_length=1, max_length=MAX_TEAMS)]
