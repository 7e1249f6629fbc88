"""Budgets over a real SQLite file and a real PostgreSQL: what is queued is set aside, once, and given back."""

import asyncio
import hashlib
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import URL
from unit.billing.ends import FINISHED_AT, deployment, ended

from batchyard.billing.budget import estimated_cost, timed_models
from batchyard.billing.budget_store import BudgetStore
from batchyard.billing.budgets import Budgets
from batchyard.billing.database import Database, open_database
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.server_time import Measured, ServerTime
from batchyard.billing.server_time_store import ServerTimeStore
from batchyard.common.clock import ManualClock
from batchyard.common.config import Alias, BatchMode, Config, Price
from batchyard.common.contracts.access import ALL_TENANTS, Limits, Team
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.contracts.budgets import (
    BudgetReport,
    GetBudgets,
    GetSpent,
    KeyLimits,
    Reservation,
    ReserveBudget,
    SpentScope,
)
from batchyard.common.contracts.usage import Usage, Work
from batchyard.common.errors import PermissionDenied, QuotaExceeded
from batchyard.common.messaging.mirror import Mirror
from batchyard.common.messaging.records import Entry
from batchyard.common.messaging.teams import Teams
from batchyard.common.messaging.topology import TEAMS_BUCKET
from batchyard.common.money import MOST

PRICES = Price(input=Decimal("0.01"), output=Decimal("0.02"))
BY_TIME = Price(second=Decimal("0.25"), gpu_hour=Decimal(1350), gpus=2)  # one for each second
CONFIG = Config(
    deployments=(
        deployment("one", PRICES),
        deployment("free", Price(), pool="free"),
        deployment("timed", BY_TIME, pool="timed"),
    )
)
TIME = ServerTime(
    100,
    {  # together with what is assumed: a million seconds for five hundred million tokens
        "known": Measured(4 * 10**8, 4 * 10**8 - 6000, 10**12 - 60 * 10**6),
        "tried": Measured(0, 1, 4 * 10**6),
    },
)
NOW = FINISHED_AT + 3600.0  # 2026-01-01T01:00:00Z
KEY = hashlib.sha256(b"key-1").hexdigest()  # of the key that `ended` names


class Treasury:
    """Budgets and the ledger beside them, on one database."""

    def __init__(self, database: Database) -> None:
        self.clock = ManualClock(NOW)
        self.mirror: Mirror[Team] = Mirror(TEAMS_BUCKET, Team)
        self.store = BudgetStore(database)
        times = ServerTimeStore(database)
        self.budgets = Budgets(self.store, times, Teams(self.mirror), CONFIG, self.clock, assumed_speed=100)
        self.ledger = Ledger(LedgerStore(database), CONFIG, self.clock)
        self._revision = 0

    def allow(self, **limits: Any) -> None:
        self._revision += 1
        team = Team(team_id="team-a", limits=Limits(**limits), created_at=1, updated_at=1)
        self.mirror.learn(Entry("team-a", team, self._revision))

    async def reserve(self, number: int, cost: int, *, tenant: str = "team-a", **more: Any) -> Reservation:
        """Ask for `cost` units of the currency for the batch of that number."""
        command = ReserveBudget(
            **{"batch_id": raw(number), "model": "llama", "input_tokens": cost * 100, "output_tokens": 0, **more}
        )
        return await self.budgets.reserve(tenant, command)

    async def fits(self, number: int, cost: int, **more: Any) -> bool:
        try:
            await self.reserve(number, cost, **more)
        except QuotaExceeded:
            return False
        return True

    async def bill(self, number: int, cost: int, **more: Any) -> None:
        usage = {"one": Usage.of(cost * 100, 0, 0, 0)}
        await self.ledger.record(ended(raw_id=raw(number), used=usage, **{"at": int(self.clock.now()), **more}))

    async def team(self) -> Any:
        """What the team has spent, what is set aside for it, and what is left."""
        report: BudgetReport = await self.budgets.report("team-a", GetBudgets())
        return report.team.spent, report.team.reserved, report.team.remaining


def raw(number: int) -> str:
    return f"batch_{number:032x}"


def of_key(**limits: Any) -> dict[str, Any]:
    return {"key": KeyLimits(key_id=KEY, limits=Limits(**limits))}


@pytest.fixture
async def treasury(database: Database) -> Treasury:
    return Treasury(database)


async def test_what_is_queued_counts_beside_what_was_spent(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    await treasury.bill(1, 3)
    assert (await treasury.reserve(2, 5)).amount == 5
    assert await treasury.team() == (3, 5, 2)
    assert not await treasury.fits(3, 3)
    assert await treasury.fits(3, 2)


async def test_a_refusal_says_what_is_spent_and_reserved_and_when_it_resets(treasury: Treasury) -> None:
    treasury.allow(max_budget="7.5", budget_duration="1mo")
    await treasury.bill(1, 3)
    await treasury.reserve(2, 4)
    with pytest.raises(QuotaExceeded) as raised:
        await treasury.reserve(3, 1)
    assert raised.value.code == raised.value.type == "insufficient_quota"
    assert raised.value.message == (
        "You exceeded your current quota, please check your plan and billing details. The budget of the team is 7.5 "
        "USD: 3.00 are spent, 4.00 are reserved for batches that have not ended, and this batch is estimated at 1.00. "
        "It is reset at 2026-02-01 00:00:00 UTC."
    )


@pytest.mark.parametrize("prices", [{}, {"model": "timed", "input_tokens": 0, "output_tokens": 300}])
async def test_of_many_at_once_as_many_pass_as_fit(
    treasury: Treasury, database_url: URL, prices: dict[str, Any]
) -> None:
    """Two replicas, each with connections of its own, and forty batches."""
    treasury.allow(max_budget=10)
    async with open_database(database_url, patience=10) as another:
        other = Treasury(another)
        other.allow(max_budget=10)
        fits = await asyncio.gather(*((treasury, other)[number % 2].fits(number, 3, **prices) for number in range(40)))
    assert sum(fits) == 3
    assert await treasury.team() == (0, 9, 1)


async def test_the_same_batch_is_set_aside_once(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    assert await asyncio.gather(*(treasury.fits(1, 6) for _ in range(8))) == [True] * 8
    assert await treasury.team() == (0, 6, 4)


async def test_an_entry_takes_the_place_of_what_was_set_aside(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    await treasury.reserve(1, 6)
    await treasury.bill(1, 4)
    assert await treasury.team() == (4, 0, 6)
    await treasury.bill(1, 4)
    assert await treasury.team() == (4, 0, 6)


@pytest.mark.parametrize("status", [BatchStatus.FAILED, BatchStatus.CANCELLED])
async def test_what_never_ran_gives_everything_back(treasury: Treasury, status: BatchStatus) -> None:
    treasury.allow(max_budget=10)
    await treasury.reserve(1, 6)
    await treasury.bill(1, 0, status=status)
    assert await treasury.team() == (0, 0, 10)


async def test_a_reservation_that_comes_after_the_entry_is_none(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    await treasury.bill(1, 4)
    await treasury.reserve(1, 6)
    assert await treasury.team() == (4, 0, 6)


async def test_spending_counts_from_zero_in_the_next_period(treasury: Treasury) -> None:
    treasury.allow(max_budget=10, budget_duration="24h")
    await treasury.bill(1, 9)
    await treasury.reserve(2, 1)
    assert not await treasury.fits(3, 5)
    treasury.clock.advance(86_400)
    assert await treasury.team() == (0, 1, 9)
    assert await treasury.fits(3, 9)


async def test_a_key_has_a_budget_of_its_own(treasury: Treasury) -> None:
    treasury.allow(max_budget=100)
    assert await treasury.fits(1, 4, **of_key(max_budget=5))
    assert not await treasury.fits(2, 2, **of_key(max_budget=5))
    assert await treasury.fits(3, 2)
    report = await treasury.budgets.report("team-a", GetBudgets(**of_key(max_budget=5)))
    assert report.key is not None
    assert report.key.reserved == 4
    assert report.key.remaining == 1
    assert report.team.reserved == 6


async def test_another_teams_spending_does_not_count(treasury: Treasury) -> None:
    treasury.allow(max_budget=5)
    await treasury.bill(1, 5, tenant="team-b")
    assert await treasury.fits(2, 5)


async def test_what_has_no_price_touches_no_budget(treasury: Treasury) -> None:
    treasury.allow(max_budget=0)
    assert (await treasury.reserve(1, 50, model="free")).amount == 0
    assert (await treasury.reserve(2, 50, model="unknown")).amount == 0
    assert not await treasury.fits(3, 1)
    assert await treasury.team() == (0, 0, 0)


async def test_a_planned_batch_that_is_larger_waits_for_those_before_it(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    for number in (1, 2, 3):
        await treasury.reserve(number, 2)
    waiting = await treasury.reserve(2, 8, planned=True)
    assert waiting.shortage is not None
    assert not waiting.is_final
    also_waiting = await treasury.reserve(3, 8, planned=True)
    assert also_waiting.shortage is not None
    assert not await treasury.fits(4, 1)
    await treasury.bill(1, 2)
    assert (await treasury.reserve(2, 8, planned=True)).shortage is None
    assert (await treasury.reserve(3, 8, planned=True)).shortage is not None
    await treasury.bill(2, 0)
    assert (await treasury.reserve(3, 8, planned=True)).shortage is None


async def test_one_that_costs_more_than_the_whole_budget_never_fits(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    await treasury.reserve(1, 2)
    assert (await treasury.reserve(1, 11, planned=True)).is_final


async def test_a_raised_budget_lets_waiting_batches_go_on(treasury: Treasury) -> None:
    treasury.allow(max_budget=10)
    await treasury.reserve(1, 6)
    await treasury.reserve(2, 2)
    assert (await treasury.reserve(2, 5, planned=True)).shortage is not None
    treasury.allow(max_budget=11)
    assert (await treasury.reserve(2, 5, planned=True)).shortage is None


async def test_a_soft_budget_is_told_once_in_a_period(treasury: Treasury) -> None:
    treasury.allow(soft_budget=5, budget_duration="24h")
    await treasury.bill(1, 4)
    await treasury.budgets.note("team-a", None)
    assert await treasury.store.untold() == []
    await treasury.bill(2, 1)
    for _ in range(2):
        await treasury.budgets.note("team-a", None)
    (event,) = await treasury.store.untold()
    assert event.spent == event.soft_budget == 5
    assert event.key_id is None
    await treasury.store.told(event, 1)
    await treasury.budgets.note("team-a", None)
    assert await treasury.store.untold() == []
    treasury.clock.advance(86_400)
    await treasury.bill(3, 6)
    await treasury.budgets.note("team-a", None)
    assert len(await treasury.store.untold()) == 1


async def test_a_keys_soft_budget_is_known_from_its_last_batch(treasury: Treasury) -> None:
    await treasury.reserve(1, 1, **of_key(soft_budget=1))
    await treasury.bill(1, 2)
    await treasury.budgets.note("team-a", KEY)
    (event,) = await treasury.store.untold()
    assert event.key_id == KEY
    assert event.spent == 2


async def test_a_keys_soft_budget_is_the_newest_though_an_older_batch_is_planned_later(treasury: Treasury) -> None:
    await treasury.reserve(1, 1, **of_key(soft_budget=1))
    await treasury.reserve(2, 1, **of_key(soft_budget=9))
    await treasury.reserve(1, 1, **of_key(soft_budget=1), planned=True)
    await treasury.bill(1, 2)
    await treasury.budgets.note("team-a", KEY)
    assert await treasury.store.untold() == []


def test_an_estimate_is_by_the_dearest_server_and_the_discount_counts() -> None:
    pool = (deployment("one", PRICES), deployment("two", Price(input=Decimal("0.05"), batch_output=Decimal("0.01"))))
    config = Config(deployments=(*pool, deployment("other", Price(input=Decimal(1)), pool="other")))
    assert estimated_cost("llama", Usage.of(100, 0, 100, 0), config, TIME) == Decimal(6)
    assert estimated_cost(None, Usage.of(100, 0, 0, 0), config, TIME) == 100
    assert estimated_cost("unknown", Usage.of(100, 0, 100, 0), config, TIME) == 0
    half = Config(deployments=(deployment("one", PRICES),), batch_discount=Decimal("0.5"))
    assert estimated_cost("llama", Usage.of(100, 0, 0, 0), half, TIME) == Decimal("0.5")


def test_time_is_estimated_as_it_was_measured_and_else_as_is_assumed() -> None:
    assert TIME.microseconds("known", Usage.of(4000, 0, 9000, 0)) == 20_000_000
    assert TIME.microseconds("unknown", Usage.of(4000, 0, 9000, 0)) == 100_000_000
    assert TIME.microseconds("tried", Usage.of(0, 0, 100, 0)) == 1_066_489  # 4 s for one token, beside 60 s for 6,000
    assert TIME.microseconds("unknown", Usage()) == 0


def test_an_estimate_has_the_price_of_the_time_beside_that_of_the_tokens() -> None:
    config = Config(
        deployments=(
            deployment("timed", replace(BY_TIME, output=Decimal("0.5")), pool="known"),
            replace(deployment("whole", BY_TIME, pool="whole"), batch_mode=BatchMode.NATIVE),
        ),
        aliases={"other": Alias("known")},
    )
    usage = Usage.of(0, 0, 1000, 0)
    assert estimated_cost("known", usage, config, TIME) == 500 + 2
    assert estimated_cost("other", usage, config, TIME) == 500 + 2
    assert estimated_cost(None, usage, config, TIME) == 500 + 2
    assert estimated_cost("whole", usage, config, TIME) == 0  # it does not tell its time, and is charged for none
    assert estimated_cost("known", Usage.of(0, 0, 10**12, 0), config, TIME) == MOST
    assert timed_models(None, config) == timed_models("other", config) == {"known"}


async def test_what_batches_have_taken_lately_says_how_long_the_next_takes(treasury: Treasury) -> None:
    """A hundred tokens a second as is assumed, then half of them, as is measured, for a week."""
    treasury.allow(max_budget=1_000_000)

    async def estimate(number: int) -> int:
        return round((await treasury.reserve(number, 0, model="timed", output_tokens=10_000)).amount)

    assert await estimate(1) == 100
    work = Work(deployment="timed", usage=Usage.of(4_000_000, 0, 4_000_000, 0), busy_microseconds=100_000 * 10**6)
    event = ended(tenant="team-b", model="timed", at=int(NOW), used={})
    await treasury.ledger.record(event.model_copy(update={"work": (work,)}))
    await treasury.bill(2, 10**6, model="timed", tenant="team-c")  # by a server that tells no time
    assert await estimate(3) == 200
    treasury.clock.advance(6 * 86_400)
    assert await estimate(4) == 200
    treasury.clock.advance(86_400)
    assert await estimate(5) == 100


async def test_what_runs_counts_with_the_time_that_it_has_taken(treasury: Treasury) -> None:
    used = (
        Work(model="timed", deployment="timed", busy_microseconds=2_500_000),
        Work(model="llama", deployment="one", usage=Usage.of(100, 0, 0, 0), busy_microseconds=9_000_000),
        Work(model="llama", completed=1),
    )
    assert (await treasury.budgets.report("team-a", GetBudgets(running=used))).team.running == Decimal("3.5")


async def test_what_was_spent_is_told_with_and_without_a_budget(treasury: Treasury) -> None:
    await treasury.bill(1, 3)
    await treasury.bill(2, 4, at=int(NOW) - 86_400)
    await treasury.bill(3, 5, key=None)
    await treasury.bill(4, 16, at=int(NOW) - 3 * 3600)  # in the same 36 hours, which began at noon
    asked = [(None, None), (None, "24h"), (None, "36h"), (KEY, None), (KEY, "24h"), (KEY, "36h"), ("f" * 64, None)]
    scopes = tuple(SpentScope(team="team-a", key_id=key_id, budget_duration=duration) for key_id, duration in asked)
    report = await treasury.budgets.spent("team-a", GetSpent(scopes=scopes))
    assert list(map(int, report.spent)) == [28, 8, 24, 23, 3, 19, 0]
    assert (await treasury.budgets.spent(ALL_TENANTS, GetSpent(scopes=scopes))) == report
    with pytest.raises(PermissionDenied):
        await treasury.budgets.spent("team-b", GetSpent(scopes=scopes))
