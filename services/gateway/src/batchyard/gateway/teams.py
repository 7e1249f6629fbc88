"""What the master key does to teams."""

from uuid import uuid4

from batchyard.common.clock import Clock
from batchyard.common.contracts.access import DEFAULT_TENANT, Team
from batchyard.common.errors import Conflict, NotFound
from batchyard.common.logs import get_logger
from batchyard.common.messaging.records import RevisionConflict
from batchyard.gateway.access_request import given
from batchyard.gateway.directory import Directory
from batchyard.gateway.team_request import NewTeam, TeamFields, UpdateTeam

_log = get_logger(__name__)


class Teams:
    """Makes, changes and removes teams. Each act is one write, and one line in the log."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    async def named(self, team_id: str) -> Team:
        """The team of that ID. Raises NotFound."""
        team = await self._directory.teams.look_up(team_id)
        if team is None:
            raise _missing(team_id)
        return team

    async def new(self, wanted: NewTeam) -> Team:
        """A new team. Raises Conflict when there is one of its ID."""
        now = self._clock.now()
        team_id = wanted.team_id or str(uuid4())
        team = _with_fields(Team(team_id=team_id, created_at=now, updated_at=now), wanted)
        try:
            await self._directory.teams.create(team_id, team)
        except RevisionConflict as error:
            raise Conflict(f"There is a team '{team_id}' already.", param="team_id") from error
        self._tell("team.created", team)
        return team

    async def update(self, wanted: UpdateTeam) -> Team:
        """Change what a team may do. Raises NotFound."""
        now = self._clock.now()
        team = await self._directory.teams.change(
            wanted.team_id, lambda team: _with_fields(team, wanted).model_copy(update={"updated_at": now})
        )
        if team is None:
            raise _missing(wanted.team_id)
        self._tell("team.updated", team)
        return team

    async def block(self, team_id: str, *, blocked: bool) -> Team:
        """Let the keys of a team open nothing, or let them again. Raises NotFound."""
        now = self._clock.now()
        team = await self._directory.teams.change(
            team_id, lambda team: team.model_copy(update={"blocked": blocked, "updated_at": now})
        )
        if team is None:
            raise _missing(team_id)
        self._tell("team.blocked" if blocked else "team.unblocked", team)
        return team

    async def delete(self, teams: list[Team]) -> list[str]:
        """Remove teams without keys; their IDs. What they own stays, and belongs to a new team of the same ID.

        Raises Conflict when one has keys; none is removed then.
        """
        for team in teams:
            if team.team_id != DEFAULT_TENANT and (keys := self._directory.newest_keys(team.team_id)):
                raise Conflict(
                    f"The team '{team.team_id}' has {len(keys)} keys: delete them first, or block the team.",
                    param="team_ids",
                )
        for team in teams:
            await self._directory.teams.remove(team.team_id)
            self._tell("team.deleted", team)
        return [team.team_id for team in teams]

    def _tell(self, act: str, team: Team) -> None:
        _log.info(act, audit=True, team_id=team.team_id, team_alias=team.team_alias)


def _with_fields(team: Team, wanted: TeamFields) -> Team:
    said = given(wanted, ("team_alias", "models", "model_limits", "pause_over_budget", "metadata", "blocked"))
    return team.model_copy(
        update={
            "team_alias": said.get("team_alias", team.team_alias),
            "models": tuple(said["models"] or ()) if "models" in said else team.models,
            "model_limits": wanted.limits_of_models() if "model_limits" in said else team.model_limits,
            "pause_over_budget": bool(said.get("pause_over_budget", team.pause_over_budget)),
            "metadata": (said["metadata"] or {}) if "metadata" in said else team.metadata,
            "blocked": bool(said.get("blocked", team.blocked)),
            "limits": wanted.limits(team.limits),
        }
    )


def _missing(team_id: str) -> NotFound:
    return NotFound(f"No such team: {team_id}", param="team_id", code="team_not_found")
