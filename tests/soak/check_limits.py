"""Limits at the end: whether each refusal was due, whether any limit was passed, and whether all room is given back."""

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from soak.checker import Findings, Verdict
from soak.diary import Diary, Refusal, Wish
from soak.in_force import in_force
from soak.leftovers import Leftovers
from soak.teams import PURSE, QUEUE, WARNED, PlannedTeam, estimates, most

_ROOM = re.compile(
    r"Enqueued (?P<what>batch|line) limit reached for (?P<whose>the team|the API key)\. Limit: (?P<limit>[\d,]+) "
    r"enqueued \w+; (?P<used>[\d,]+) are enqueued(?: and this batch needs (?P<wanted>[\d,]+))?\."
)
_MONEY = re.compile(
    r"The budget of (?P<whose>the team|the API key) is (?P<limit>[\d.]+) USD: (?P<spent>[\d.]+) are spent, "
    r"(?P<reserved>[\d.]+) are reserved for batches that have not ended, and this batch is estimated at "
    r"(?P<wanted>[\d.]+)\."
)
_LIMITS = {"batch": "max_batches", "line": "max_enqueued_lines"}
_WHO = {"max_batches": "the API key", "max_enqueued_lines": "the team"}
_BUDGETS = {PURSE: "the team", WARNED: "the API key"}


def check_limits(
    diary: Diary, listed: Sequence[tuple[str, Any]], teams: Sequence[PlannedTeam], look: Leftovers, seconds: float
) -> list[Verdict]:
    """`listed` are all batches with their teams, `look` was taken so many seconds after they had ended."""
    by_name = {team.name: team for team in teams}
    return [
        _refusals(diary, by_name),
        _not_passed(diary, by_name[QUEUE]),
        _nothing_of_refused(diary, listed),
        Verdict(
            "all that was enqueued and reserved is given back",
            not look.held,
            f"{', '.join(look.held) or 'nothing is counted'}, {seconds:.1f} s after the end",
        ),
    ]


def _refusals(diary: Diary, teams: dict[str, PlannedTeam]) -> Verdict:
    findings, codes = Findings(), Counter[str]()
    for wish in diary.wishes.values():
        for refusal in wish.refusals:
            codes[f"{refusal.code} of {wish.planned.team}"] += 1
            problem = _undue(diary, teams.get(wish.planned.team), wish, refusal)
            findings.expect(problem is None, f"batch {wish.planned.number} of {wish.planned.team}: {problem}")
    numbers = ", ".join(f"{count} × {code}" for code, count in sorted(codes.items()))
    return findings.verdict("every refusal was due", numbers or "no refusals")


def _undue(diary: Diary, team: PlannedTeam | None, wish: Wish, refusal: Refusal) -> str | None:
    """What is wrong with a refusal, if anything is."""
    if team is None:
        return f"a team without limits: {refusal.message}"
    room, money = _ROOM.match(refusal.message), _MONEY.search(refusal.message)
    if room is not None and refusal.code == "rate_limit_exceeded":
        return _undue_room(diary, team, wish, refusal, room)
    if money is not None and refusal.code == "insufficient_quota":
        return _undue_money(diary, team, wish, refusal, money)
    return f"{refusal.status} {refusal.code}: {refusal.message}"


def _undue_room(diary: Diary, team: PlannedTeam, wish: Wish, refusal: Refusal, said: re.Match[str]) -> str | None:
    name = _LIMITS[said["what"]]
    wanted = _number(said["wanted"] or "1")
    limit, used = _number(said["limit"]), _number(said["used"])
    others = [one for one in diary.of(team.name) if one is not wish and one.may_be_open(refusal.sent, refusal.answered)]
    most_used = len(others) if name == "max_batches" else sum(one.planned.lines for one in others)
    if team.name != QUEUE or said["whose"] != _WHO[name]:
        return f"not its limit: {refusal.message}"
    if limit not in in_force(diary, team, name, refusal.sent, refusal.answered):
        return f"a limit that was not in force: {refusal.message}"
    if wanted != (1 if name == "max_batches" else wish.planned.lines) or used + wanted <= limit:
        return f"it fits: {refusal.message}"
    if used > most_used:
        return f"at most {most_used} were enqueued: {refusal.message}"
    return None if refusal.retry_after else "without Retry-After"


def _undue_money(diary: Diary, team: PlannedTeam, wish: Wish, refusal: Refusal, said: re.Match[str]) -> str | None:
    limit, spent, reserved, wanted = (Decimal(said[name]) for name in ("limit", "spent", "reserved", "wanted"))
    budgets = in_force(diary, team, "max_budget", refusal.sent, refusal.answered)
    others = sum(
        (
            most(one.planned)
            for one in diary.of(team.name)
            if one is not wish and (one.first_sent or 9e99) <= refusal.answered
        ),
        Decimal(0),
    )
    if said["whose"] != _BUDGETS.get(team.name) or limit not in [Decimal(str(budget)) for budget in budgets]:
        return f"a budget that was not in force: {refusal.message}"
    if wanted not in estimates(wish.planned) or spent + reserved + wanted <= limit:
        return f"it fits: {refusal.message}"
    if spent + reserved > others:
        return f"at most {others} were spent and reserved: {refusal.message}"
    return None


def _not_passed(diary: Diary, team: PlannedTeam) -> Verdict:
    """When a batch was made, those that were certainly there and itself fitted into the limits."""
    findings, fullest = Findings(), 0.0
    wishes = diary.of(team.name)
    for wish in wishes:
        if wish.sent is None or wish.answered is None:
            continue
        there = [one for one in wishes if one is not wish and one.is_open(wish.sent, wish.answered)] + [wish]
        used = {"max_batches": len(there), "max_enqueued_lines": sum(one.planned.lines for one in there)}
        for name, count in used.items():
            limit = max(in_force(diary, team, name, wish.sent, wish.answered))
            fullest = max(fullest, count / limit)
            findings.expect(count <= limit, f"batch {wish.planned.number}: {count} of {limit} {name}")
    return findings.verdict(
        "no limit on what is enqueued is passed",
        f"{len(wishes)} batches of {team.name}, certainly {fullest:.0%} full at most",
    )


def _nothing_of_refused(diary: Diary, listed: Sequence[tuple[str, Any]]) -> Verdict:
    """Every batch that a client was told of is there, in its team; any other one was asked for without an answer."""
    findings, second = Findings(), 0
    found = {batch["id"]: (team, int(batch["metadata"]["soak"])) for team, batch in listed}
    for wish in diary.wishes.values():
        planned = wish.planned
        if wish.batch_id is not None:
            at = found.get(wish.batch_id)
            findings.expect(at == (planned.team, planned.number), f"batch {planned.number} of {planned.team}: {at}")
        others = [one for one, (_, number) in found.items() if number == planned.number and one != wish.batch_id]
        second += len(others)
        findings.expect(
            len(others) <= wish.unanswered,
            f"{len(others)} more of batch {planned.number}, {wish.unanswered} unanswered",
        )
    told = sum(wish.batch_id is not None for wish in diary.wishes.values())
    refusals = sum(len(wish.refusals) for wish in diary.wishes.values())
    return findings.verdict(
        "what was told is there, what was refused is not",
        f"{told} batches told, {refusals} refusals, {second} made unheard",
    )


def _number(text: str) -> int:
    return int(text.replace(",", ""))
