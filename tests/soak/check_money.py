"""Money at the end: spend by every way of asking, budgets, and what was told of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal

from soak.checker import Findings, Seen, Verdict
from soak.diary import Diary, Wish
from soak.in_force import in_force
from soak.money import Books
from soak.plan import PlannedBatch
from soak.teams import KEY_PERIOD, LATER_PRICES, PURSE, WARNED, PlannedTeam, estimate

_TOLD_WITHIN = 10.0
"""Seconds after a limit was changed from which on an entry surely met it."""
_NOTHING = Decimal(0)


def check_money(all_seen: Sequence[Seen], books: Books, diary: Diary, teams: Sequence[PlannedTeam]) -> list[Verdict]:
    by_name = {team.name: team for team in teams}
    return [
        _spend(books),
        _prices(all_seen, books, diary),
        _budgets(all_seen, books, diary, by_name),
        _soft_budgets(books, diary, by_name),
    ]


def _spend(books: Books) -> Verdict:
    findings = Findings()
    for way, sums in books.told.items():
        for team in sorted({*sums, *books.events}):
            said, expected = sums.get(team, _NOTHING), books.events.get(team, _NOTHING)
            findings.expect(said == expected, f"{team} by {way}: {said}, by the events and the prices {expected}")
    for team, entries in books.logs.items():
        findings.expect(all(entry["tenant"] == team for entry in entries), f"{team} is told of others' entries")
    numbers = ", ".join(f"{team} {cost:f}" for team, cost in sorted(books.events.items()))
    return findings.verdict(
        "every way of asking tells the same spend",
        f"{numbers} USD by {len(books.told)} ways, {len(books.batch_events)} events",
    )


def _prices(all_seen: Sequence[Seen], books: Books, diary: Diary) -> Verdict:
    """An entry has the prices of the batch's end; the batch itself shows what it cost."""
    findings, by_version, early = Findings(), defaultdict[int, int](int), 0
    deed = diary.deed("prices")
    changed = None if deed is None else deed.began
    for seen in all_seen:
        for entry in seen.ledger:
            version, factor = books.prices.at(entry["finished_at"])
            by_version[factor] += 1
            findings.expect(entry["price_version"] == version, f"{seen.name}: priced by {entry['price_version']}")
            if seen.batch["cost"] is None or Decimal(seen.batch["cost"]) != Decimal(entry["cost"]):
                early += 1
                unsure = books.prices.may_differ(entry["finished_at"], changed)
                findings.expect(unsure, f"{seen.name} shows {seen.batch['cost']}, its entry {entry['cost']}")
    findings.expect(len(books.prices.versions) <= LATER_PRICES, f"{len(books.prices.versions)} versions of the prices")
    numbers = ", ".join(f"{count} entries at {factor} × the prices" for factor, count in sorted(by_version.items()))
    return findings.verdict("prices are those of a batch's end", f"{numbers}; {early} shown at others' meanwhile")


def _budgets(all_seen: Sequence[Seen], books: Books, diary: Diary, teams: dict[str, PlannedTeam]) -> Verdict:
    """The rule: when a batch is admitted, what is spent, what is set aside for those that have not ended, and its own
    estimate fit into the budget together. So in no period is more spent than the largest budget that was in force, and
    what batches cost beyond what was set aside for them."""
    findings, numbers = Findings(), []
    for name, seconds in ((PURSE, None), (WARNED, KEY_PERIOD)):
        budget = max(_budgets_of(diary, teams[name], 0, float("inf")), default=_NOTHING)
        beyond = sum((_beyond(seen) for seen in all_seen if seen.planned.team == name), _NOTHING)
        spent = _by_period(books, name, seconds)
        most_spent = max(spent.values(), default=_NOTHING)
        findings.expect(most_spent <= budget + beyond, f"{name}: {most_spent} spent of {budget}, {beyond} unforeseen")
        admissions = list(_admissions(diary, name, books, teams[name], seconds))
        for wish, held, allowed in admissions:
            findings.expect(held <= allowed, f"batch {wish.planned.number} of {name}: {held} held, {allowed} allowed")
        fullest = max((held / allowed for _, held, allowed in admissions if allowed), default=_NOTHING)
        numbers.append(
            f"{name} at most {most_spent:f} of {budget:f} spent ({beyond:f} beyond estimates), {len(admissions)} "
            f"admissions, certainly held {fullest:.0%} at most"
        )
    return findings.verdict("no budget is passed by more than its estimates were wrong", "; ".join(numbers))


def _beyond(seen: Seen) -> Decimal:
    """What a batch cost beyond the least that may have been set aside for it."""
    cost = sum((Decimal(entry["cost"]) for entry in seen.ledger), _NOTHING)
    return max(_NOTHING, cost - _least(seen.planned))


def _least(batch: PlannedBatch) -> Decimal:
    return estimate(batch, batch.model, 1)


def _by_period(books: Books, team: str, seconds: int | None) -> dict[int, Decimal]:
    spent: dict[int, Decimal] = defaultdict(Decimal)
    for entry in books.logs[team]:
        spent[entry["finished_at"] // seconds if seconds else 0] += Decimal(entry["cost"])
    return spent


def _admissions(
    diary: Diary, name: str, books: Books, team: PlannedTeam, seconds: int | None
) -> Iterator[tuple[Wish, Decimal, Decimal]]:
    """For each batch what was certainly spent and set aside when it was made, itself included, and the most that was
    allowed then. A batch that was made at a turn of a period is left out."""
    wishes = diary.of(name)
    for wish in wishes:
        if wish.sent is None or wish.answered is None or (seconds and wish.sent // seconds != wish.answered // seconds):
            continue
        begin = wish.sent // seconds * seconds if seconds else 0
        spent = [
            Decimal(entry["cost"])
            for entry in books.logs[name]
            if entry["recorded_at"] < int(wish.sent) and entry["finished_at"] >= begin
        ]
        others = [_least(one.planned) for one in wishes if one is not wish and one.is_open(wish.sent, wish.answered)]
        allowed = max(_budgets_of(diary, team, wish.sent, wish.answered), default=_NOTHING)
        yield wish, sum((*spent, *others, _least(wish.planned)), _NOTHING), allowed


def _budgets_of(diary: Diary, team: PlannedTeam, begin: float, end: float) -> list[Decimal]:
    return [Decimal(str(value)) for value in in_force(diary, team, "max_budget", begin, end) if value is not None]


def _soft_budgets(books: Books, diary: Diary, teams: dict[str, PlannedTeam]) -> Verdict:
    """One event for a team that has passed its soft budget, and none for another."""
    findings = Findings()
    for name, team in teams.items():
        told = [event for event in books.budget_events if event.tenant == name]
        due = _must_be_told(books, diary, team)
        may = name in (PURSE, WARNED)
        findings.expect(len(told) <= may, f"{name}: {len(told)} events")
        findings.expect(bool(told) or not due, f"{name} was not told")
        for event in told:
            findings.expect(event.spent > event.soft_budget, f"{name} was told at {event.spent} of {event.soft_budget}")
    return findings.verdict("a soft budget is told once", f"{len(books.budget_events)} events")


def _must_be_told(books: Books, diary: Diary, team: PlannedTeam) -> bool:
    """Whether an entry that costs something was written while a soft budget was surely known."""
    since: float | None = 0.0 if "soft_budget" in team.team else None
    for number, (_, body) in enumerate(team.updates):
        deed = diary.deed(f"update {team.name} {number}")
        if "soft_budget" in body and deed is not None:
            since = deed.over + _TOLD_WITHIN
    paid = (entry for entry in books.logs[team.name] if Decimal(entry["cost"]))
    return since is not None and any(entry["recorded_at"] > since for entry in paid)
