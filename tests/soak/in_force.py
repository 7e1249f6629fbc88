"""Which limits were in force when: those of a team change in the middle of a soak."""

from typing import Any

from soak.diary import Diary
from soak.teams import PlannedTeam

HEARD_WITHIN = 10.0
"""Seconds after which every service knows of a change, NATS having been away meanwhile."""


def in_force(diary: Diary, team: PlannedTeam, name: str, begin: float, end: float) -> list[Any]:
    """The values that a team's or its key's limit may have had at some moment of an interval; None is no limit."""
    values = [team.key.get(name) if name in team.key else team.team.get(name)]
    for number, (_, body) in enumerate(team.updates):
        deed = diary.deed(f"update {team.name} {number}")
        if name not in body or deed is None or deed.began > end:
            continue
        if deed.over + HEARD_WITHIN < begin:
            values.clear()
        values.append(body[name])
    return values
