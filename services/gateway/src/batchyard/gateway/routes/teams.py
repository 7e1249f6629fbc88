"""Teams: https://docs.litellm.ai/docs/proxy/team_budgets. The paths and most members are LiteLLM's."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from batchyard.common.contracts.access import Team
from batchyard.gateway.access_answers import DeletedTeams, ShownTeam, TeamInfo, shown_key, shown_team
from batchyard.gateway.access_request import parse
from batchyard.gateway.bodies import read_json
from batchyard.gateway.caller import Caller, TheAdmin
from batchyard.gateway.document import refusals
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.spent import spent_by
from batchyard.gateway.team_request import DeleteTeams, NameTeam, NewTeam, UpdateTeam

router = APIRouter(tags=["Teams"], prefix="/team")


@router.post("/new", openapi_extra=json_body(NewTeam), responses=refusals(409))
async def create_team(request: Request, caller: TheAdmin) -> ShownTeam:
    """A new team. One called `default` bounds those who have no other: the master key, and keys without a team."""
    wanted = parse(NewTeam, await read_json(request, caller.gateway.settings))
    return _shown(caller, await caller.gateway.teams.new(wanted))


@router.post("/update", openapi_extra=json_body(UpdateTeam), responses=refusals(404))
async def update_team(request: Request, caller: TheAdmin) -> ShownTeam:
    """Change what a team may do, from now on."""
    wanted = parse(UpdateTeam, await read_json(request, caller.gateway.settings))
    return _shown(caller, await caller.gateway.teams.update(wanted))


@router.post("/block", openapi_extra=json_body(NameTeam), responses=refusals(404))
async def block_team(request: Request, caller: TheAdmin) -> ShownTeam:
    """Let the keys of a team open nothing. Its running batches run on."""
    wanted = parse(NameTeam, await read_json(request, caller.gateway.settings))
    return _shown(caller, await caller.gateway.teams.block(wanted.team_id, blocked=True))


@router.post("/unblock", openapi_extra=json_body(NameTeam), responses=refusals(404))
async def unblock_team(request: Request, caller: TheAdmin) -> ShownTeam:
    """Let the keys of a blocked team open again what they did."""
    wanted = parse(NameTeam, await read_json(request, caller.gateway.settings))
    return _shown(caller, await caller.gateway.teams.block(wanted.team_id, blocked=False))


@router.post("/delete", openapi_extra=json_body(DeleteTeams), responses=refusals(404, 409))
async def delete_teams(request: Request, caller: TheAdmin) -> DeletedTeams:
    """Remove teams that have no keys. Their files and batches stay, and are those of a new team of the same ID."""
    wanted = parse(DeleteTeams, await read_json(request, caller.gateway.settings))
    teams = caller.gateway.teams
    found = [await teams.named(team_id) for team_id in dict.fromkeys(wanted.team_ids)]
    return DeletedTeams(deleted_teams=await teams.delete(found))


@router.get("/info", responses=refusals(404))
async def get_team_info(caller: TheAdmin, team_id: Annotated[str, Query(min_length=1, max_length=128)]) -> TeamInfo:
    """A team and its keys."""
    team, keys = await caller.gateway.teams.named(team_id), caller.gateway.directory.newest_keys(team_id)
    now = caller.gateway.clock.now()
    spend, *of_keys = await spent_by(caller.gateway.commands, [team, *keys])
    shown = [shown_key(key, now, of_key) for key, of_key in zip(keys, of_keys, strict=True)]
    return TeamInfo(team_id=team_id, team_info=shown_team(team, now, spend), keys=shown)


@router.get("/list")
async def list_teams(caller: TheAdmin) -> list[ShownTeam]:
    """All teams, by their IDs."""
    teams = sorted(caller.gateway.directory.teams, key=lambda team: team.team_id)
    now, spent = caller.gateway.clock.now(), await spent_by(caller.gateway.commands, teams)
    return [shown_team(team, now, spend) for team, spend in zip(teams, spent, strict=True)]


def _shown(caller: Caller, team: Team) -> ShownTeam:
    return shown_team(team, caller.gateway.clock.now())
