"""A month of spend in one report, and a budget in one look: how long a ledger of a million entries takes.

    PYTHONPATH=tests python benchmarks/spend_report.py                  # SQLite, in a temporary directory
    PYTHONPATH=tests python benchmarks/spend_report.py --postgresql     # a PostgreSQL server of its own
    PYTHONPATH=tests python benchmarks/spend_report.py --database postgresql://…   # an empty database, or one of these

Entries of 30 days are spread over 20 teams, unless told otherwise, 200 keys, 12 models and 40 projects. Each report is
asked as a command would ask it, over all teams and over one; the best of three is shown. Beside it stands the same sum
over the entries themselves, without the sums by day that the database keeps.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, func, select, text

from batchyard.billing.budget import Scope
from batchyard.billing.budget_store import BudgetStore, Wish
from batchyard.billing.database import Database, open_database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger_store import values_of
from batchyard.billing.selection import Selection
from batchyard.billing.settings import BillingSettings
from batchyard.billing.spend_days import SpendDays
from batchyard.billing.spend_sums import SpendSums
from batchyard.billing.tables import ledger_entries
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.batches import RequestCounts
from batchyard.common.contracts.billing import LedgerLine
from batchyard.common.contracts.usage import Usage
from batchyard.common.periods import Period
from support.postgres import running_postgres

MONTH = 1_764_547_200  # 2025-12-01T00:00:00Z
SECONDS = 30 * 86_400
GROUPS = ("team", "key", "model", "day", "metadata.project", "tag")


def entries(count: int, teams: int) -> Iterator[dict[str, Any]]:
    """Rows of the ledger, the same ones each time, in the order in which their batches end."""
    rng = random.Random(1)
    for number in range(count):
        key = rng.randrange(200)
        tokens = rng.randrange(10_000, 5_000_000)
        line = LedgerLine(
            id=f"batch_{number:032x}.0",
            batch_id=f"batch_{number:032x}",
            tenant=f"team-{key % teams}",
            key_id=f"{key:064x}",
            key_alias=f"key-{key}",
            model=f"model-{rng.randrange(12)}",
            endpoint="/v1/chat/completions",
            status="completed",
            request_counts=RequestCounts(total=1000, completed=990, failed=10),
            usage=Usage.of(tokens, tokens // 4, tokens // 3, 0),
            cost=Decimal(tokens).scaleb(-6),
            currency="USD",
            price_version="0123456789abcdef",
            batch_created_at=MONTH,
            finished_at=MONTH + SECONDS * number // count,
            recorded_at=MONTH,
            metadata={"project": f"project-{rng.randrange(40)}"},
        )
        yield values_of(LedgerEntry(line=line, position=0, raw_batch_id=line.batch_id, event_id="e"))


async def fill(database: Database, count: int, teams: int) -> None:
    """Write the entries; in PostgreSQL without its trigger, as summing them up at the end takes half as long."""
    at_the_end = database.dialect == "postgresql"
    if at_the_end:
        await execute(database, TRIGGER.format(how="DISABLE"))
    rows: list[dict[str, Any]] = []
    for row in entries(count, teams):
        rows.append(row)
        if len(rows) == 10_000:
            await insert(database, rows)
            rows = []
    if rows:
        await insert(database, rows)
    if at_the_end:
        await execute(database, TRIGGER.format(how="ENABLE"))
        await SpendDays(database).recompute()
    await execute(database, "ANALYZE")


async def execute(database: Database, statement: str) -> None:
    async with database.writing() as connection:
        await connection.execute(text(statement))


async def insert(database: Database, rows: list[dict[str, Any]]) -> None:
    async with database.writing() as connection:
        await connection.execute(ledger_entries.insert(), rows)


TRIGGER = "ALTER TABLE ledger_entries {how} TRIGGER ledger_entries_are_summed"
COLUMNS = {"team": "tenant", "key": "key_alias, key_id", "model": "model", "day": "finished_at / 86400"}
FROM_ENTRIES = """
SELECT {columns}, count(CASE WHEN position = 0 THEN 1 END), sum(requests_completed + requests_failed),
sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(busy_microseconds), sum(cost / 10000000000),
sum(cost % 10000000000) FROM ledger_entries WHERE currency = 'USD' AND finished_at >= {start} AND finished_at < {end}
{team} GROUP BY {columns}
"""
BUDGET_FROM_ENTRIES = """
SELECT sum(cost / 10000000000), sum(cost % 10000000000) FROM ledger_entries WHERE tenant = '{team}'
AND currency = 'USD' AND finished_at >= {start} {key}
"""
NUMBER = 7
KEY = f"{NUMBER:064x}"


async def best_of(times: int, work: Callable[[], Awaitable[object]]) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        await work()
        best = min(best, time.perf_counter() - began)
    return best


async def asked(database: Database, statement: str) -> None:
    async with database.reading() as connection:
        (await connection.execute(text(statement))).all()


async def measure(database: Database, one: str) -> None:
    print("| of | grouped by | groups | batches | report | from the entries |\n|---|---|---|---|---|---|")
    sums = SpendSums(database)
    for name, tenant in (("all teams", None), ("one team", one)):
        for group_by in GROUPS:
            selection = Selection(tenant, start=MONTH, end=MONTH + SECONDS)
            report = partial(sums.sums, selection, "USD", group_by, 1000, 1)
            groups, total = await report()
            mine = await best_of(3, report)
            entries = "the same"
            if group_by in COLUMNS:
                team = "" if tenant is None else f"AND tenant = '{tenant}'"
                statement = FROM_ENTRIES.format(columns=COLUMNS[group_by], start=MONTH, end=MONTH + SECONDS, team=team)
                entries = f"{await best_of(3, partial(asked, database, statement)):.2f} s"
            print(f"| {name} | {group_by} | {len(groups)} | {total.batches:,} | {mine:.3f} s | {entries} |", flush=True)


async def measure_budgets(database: Database, one: str) -> None:
    print("\n| a budget of | since | reserving takes | the sum of the entries alone |\n|---|---|---|---|")
    store = BudgetStore(database)
    limits = Limits(max_budget=Decimal(10**9))
    periods = (("the month began", MONTH), ("noon of its first day", MONTH + 43_200), ("ever", 0))
    for name, start in periods:
        for whose, key_id in (("a team", None), ("a key", KEY)):
            scopes = [Scope(key_id, limits, Period(start, None))]
            wish = Wish(one, "batch_x", KEY, Decimal(1), "USD", planned=True, now=MONTH)
            mine = await best_of(20, partial(store.reserve, wish, scopes))
            key = "" if key_id is None else f"AND key_id = '{key_id}'"
            entries = await best_of(
                3, partial(asked, database, BUDGET_FROM_ENTRIES.format(team=one, start=start, key=key))
            )
            print(f"| {whose} | {name} | {mine * 1000:.1f} ms | {entries * 1000:.0f} ms |", flush=True)


async def run(url: URL, count: int, teams: int) -> None:
    async with open_database(url, patience=30) as database:
        async with database.reading() as connection:
            known = await connection.scalar(select(func.count()).select_from(ledger_entries)) or 0
        if not known:
            began = time.perf_counter()
            await fill(database, count, teams)
            print(f"{count:,} entries in {database.dialect}, written in {time.perf_counter() - began:.0f} s\n")
        else:
            print(f"{known:,} entries in {database.dialect}\n")
        one = f"team-{NUMBER % teams}"
        await measure(database, one)
        await measure_budgets(database, one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="sqlite:////path or postgresql://user:password@host/database")
    parser.add_argument("--postgresql", action="store_true", help="a server of its own, from the machine's binaries")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--teams", type=int, default=20)
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.postgresql:
            url = stack.enter_context(running_postgres()).database()
        else:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            wanted = options.database or f"sqlite:///{Path(directory) / 'ledger.db'}"
            url = BillingSettings(database_url=wanted).database
        asyncio.run(run(url, options.entries, options.teams))


if __name__ == "__main__":
    main()
