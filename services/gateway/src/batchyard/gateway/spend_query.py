"""Which spend is asked for, by whom, as the query says it in LiteLLM's words."""

import re
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel

from batchyard.common.contracts.access import ALL_TENANTS
from batchyard.common.contracts.base import Command
from batchyard.common.contracts.billing import GROUPS
from batchyard.common.errors import InvalidRequest
from batchyard.gateway.auth import TEAM_HEADER
from batchyard.gateway.caller import Caller
from batchyard.gateway.spend_export import wants_csv
from batchyard.gateway.spend_period import period
from batchyard.gateway.validation import unsupported_value

R = TypeVar("R", bound=BaseModel)

MAX_NAME = 512
_GROUP = re.compile(GROUPS)
_GROUP_NAMES = ("model", "day", "key", "team", "tag", "metadata.<name>")
_MOMENT = {
    "anyOf": [{"type": "string", "format": "date"}, {"type": "string", "pattern": "^[0-9]{0,11}$"}, {"type": "null"}]
}


class SpendQuery:
    """What every question about spend may say. `team_id` is for who administrates: others have one team."""

    def __init__(
        self,
        request: Request,
        start_date: Annotated[
            str | None,
            Query(description="The first day, as 2026-01-31 (UTC), or Unix seconds", json_schema_extra=_MOMENT),
        ] = None,
        end_date: Annotated[
            str | None,
            Query(description="The last day, as 2026-01-31 (UTC), or Unix seconds (excl.)", json_schema_extra=_MOMENT),
        ] = None,
        team_id: Annotated[str | None, Query(max_length=MAX_NAME, description="Only this team's")] = None,
        api_key: Annotated[
            str | None, Query(max_length=MAX_NAME, description="Only this key's: its ID, or its alias")
        ] = None,
        model: Annotated[
            str | None, Query(max_length=MAX_NAME, description="Only this model's, by any of its names")
        ] = None,
        format: Annotated[  # noqa: A002  the name of the parameter
            Literal["json", "csv"] | None, Query(description="`csv` for all of it as a table; `Accept: text/csv` too")
        ] = None,
    ) -> None:
        start, end = period(start_date, end_date)
        named = {"key": api_key or None, "model": model or None, "start": start, "end": end}
        self.members: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
        self.team_id = team_id or None
        self.is_csv = wants_csv(request, format)
        self._names_team = TEAM_HEADER in request.headers

    async def ask(self, caller: Caller, command: Command[R]) -> R:
        """What billing answers, about what the caller may see: all teams for who administrates and acts for none."""
        if not caller.identity.is_admin or self._names_team:
            return await caller.call(command)
        return await caller.gateway.commands.call(ALL_TENANTS, command)

    def selecting(self, **more: Any) -> dict[str, Any]:
        """The members of a command."""
        teams = {} if self.team_id is None else {"teams": (self.team_id,)}
        return {**self.members, **teams, **{name: value for name, value in more.items() if value is not None}}


TheSpend = Annotated[SpendQuery, Depends()]


def grouping(group_by: str) -> str:
    """What to group by. Raises InvalidRequest."""
    if not _GROUP.fullmatch(group_by):
        raise InvalidRequest(unsupported_value(group_by, _GROUP_NAMES), param="group_by", code="invalid_value")
    return group_by
