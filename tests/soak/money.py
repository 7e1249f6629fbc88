"""What was spent, by every way to ask: the routes, the database, and the events at the prices of their time."""

import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from batchyard.cli.running import RunningStack
from batchyard.common.contracts.events import BatchEvent, BudgetEvent
from batchyard.common.money import from_units
from soak.client import Client
from soak.leftovers import read_events
from soak.plan import MODELS
from soak.prices import Prices
from soak.teams import DEFAULT


@dataclass(frozen=True)
class Books:
    """All of it. Sums are by team.

    Attributes:
        logs: The entries, by team, as each team is told.
        told: By each way of asking, its name first.
        events: By the stream of events and the prices.
        batch_events: Ends of batches, each once.
        budget_events: What was told of soft budgets.
    """

    prices: Prices
    logs: Mapping[str, list[Any]]
    told: Mapping[str, Mapping[str, Decimal]]
    events: Mapping[str, Decimal]
    batch_events: Mapping[str, BatchEvent]
    budget_events: list[BudgetEvent]

    @property
    def count(self) -> int:
        return sum(map(len, self.logs.values()))

    @classmethod
    async def read(cls, stack: RunningStack, clients: Mapping[str, Client], expected: int, within: float) -> "Books":
        """Read them once there are as many entries as there should be, or the time for it is over."""
        until = time.monotonic() + within
        while True:
            logs = {team: await _logs(team, client) for team, client in clients.items()}
            if sum(map(len, logs.values())) >= expected or time.monotonic() > until:
                break
            await asyncio.sleep(0.5)
        master = clients[DEFAULT]
        prices = Prices.of(await master.json("GET", "/spend/prices", params={"limit": 100}))
        told = {
            "logs": {
                team: sum((Decimal(one["cost"]) for one in entries), Decimal(0)) for team, entries in logs.items()
            },
            "report": {team: await _total(team, client, "/global/spend/report") for team, client in clients.items()},
            "keys": {team: await _total(team, client, "/spend/keys") for team, client in clients.items()},
            "report of all": await _by_team(master, clients),
            "database": _database(stack, clients),
        }
        batches, budgets = await read_events(stack)
        return cls(prices, logs, told, _by_events(batches, prices, clients), batches, budgets)


def _acting_for(team: str) -> dict[str, str]:
    """The master key sees the spend of all teams, unless it acts for one."""
    return {"x-batchyard-team": team} if team == DEFAULT else {}


async def _logs(team: str, client: Client) -> list[Any]:
    return [entry async for entry in client.pages("/spend/logs", 1000, _acting_for(team))]


async def _total(team: str, client: Client, path: str) -> Decimal:
    report = await client.json("GET", path, headers=_acting_for(team))
    return Decimal(report["total"]["cost"])


async def _by_team(master: Client, teams: Mapping[str, Any]) -> dict[str, Decimal]:
    report = await master.json("GET", "/global/spend/report", params={"group_by": "team"})
    found = {one["group"]: Decimal(one["cost"]) for one in report["data"]}
    return {**dict.fromkeys(teams, Decimal(0)), **found}


def _database(stack: RunningStack, teams: Mapping[str, Any]) -> dict[str, Decimal]:
    connection = sqlite3.connect(f"file:{stack.layout.ledger}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT tenant, SUM(cost) FROM ledger_entries GROUP BY tenant").fetchall()
    finally:
        connection.close()
    return {**dict.fromkeys(teams, Decimal(0)), **{tenant: from_units(units) for tenant, units in rows}}


def _by_events(events: Mapping[str, BatchEvent], prices: Prices, teams: Mapping[str, Any]) -> dict[str, Decimal]:
    models = {model.name: model for model in MODELS}
    sums: dict[str, Decimal] = defaultdict(Decimal, dict.fromkeys(teams, Decimal(0)))
    for event in events.values():
        batch = event.batch
        ended = batch.completed_at or batch.expired_at or batch.cancelled_at
        if batch.usage is None or ended is None or batch.model is None:
            continue
        used = batch.usage
        tokens = (used.input_tokens, used.input_tokens_details.cached_tokens, used.output_tokens)
        sums[event.tenant] += prices.cost(models[batch.model], tokens, ended)
    return dict(sums)
