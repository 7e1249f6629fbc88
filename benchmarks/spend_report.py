"""A month of spend in one report: how long the ledger takes to add up a million entries.

    python benchmarks/spend_report.py                                   # SQLite, in a temporary directory
    python benchmarks/spend_report.py --database postgresql://…/empty   # an empty database

Entries of 30 days are spread over 20 teams, 200 keys, 12 models and 40 projects. Each report is asked as a command
would ask it, over all teams and over one; the best of three is shown.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import URL, text

from batchyard.billing.database import Database, open_database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.ledger_store import Selection, values_of
from batchyard.billing.settings import BillingSettings
from batchyard.billing.spend_sums import SpendSums
from batchyard.billing.tables import ledger_entries
from batchyard.common.contracts.batches import RequestCounts, Usage
from batchyard.common.contracts.billing import LedgerLine

MONTH = 1_764_547_200  # 2025-12-01T00:00:00Z
SECONDS = 30 * 86_400
GROUPS = ("team", "key", "model", "day", "metadata.project", "tag")


def entries(count: int) -> Iterator[dict[str, Any]]:
    """Rows of the ledger, the same ones each time."""
    rng = random.Random(1)
    for number in range(count):
        key = rng.randrange(200)
        tokens = rng.randrange(10_000, 5_000_000)
        line = LedgerLine(
            id=f"batch_{number:032x}.0",
            batch_id=f"batch_{number:032x}",
            tenant=f"team-{key % 20}",
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
            finished_at=MONTH + rng.randrange(SECONDS),
            recorded_at=MONTH,
            metadata={"project": f"project-{rng.randrange(40)}"},
        )
        yield values_of(LedgerEntry(line=line, position=0, raw_batch_id=line.batch_id, event_id="e"))


async def fill(database: Database, count: int) -> None:
    rows: list[dict[str, Any]] = []
    for row in entries(count):
        rows.append(row)
        if len(rows) == 10_000:
            await insert(database, rows)
            rows = []
    if rows:
        await insert(database, rows)
    async with database.writing() as connection:
        await connection.execute(text("ANALYZE"))


async def insert(database: Database, rows: list[dict[str, Any]]) -> None:
    async with database.writing() as connection:
        await connection.execute(ledger_entries.insert(), rows)


async def measure(database: Database) -> None:
    sums = SpendSums(database)
    for name, tenant in (("all teams", None), ("one team", "team-7")):
        for group_by in GROUPS:
            best = float("inf")
            for _ in range(3):
                began = time.perf_counter()
                selection = Selection(tenant, start=MONTH, end=MONTH + SECONDS)
                groups, total = await sums.sums(selection, "USD", group_by, 1000, 1)
                best = min(best, time.perf_counter() - began)
            print(f"| {name} | {group_by} | {len(groups)} | {total.batches:,} | {best:.2f} s |", flush=True)


async def run(url: URL, count: int) -> None:
    async with open_database(url, patience=30) as database:
        began = time.perf_counter()
        await fill(database, count)
        print(f"{count:,} entries in {database.dialect}, written in {time.perf_counter() - began:.0f} s\n")
        print("| of | grouped by | groups | batches | report |\n|---|---|---|---|---|")
        await measure(database)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="postgresql://user:password@host/database, empty; SQLite without it")
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = options.database or f"sqlite:///{Path(directory) / 'ledger.db'}"
        asyncio.run(run(BillingSettings(database_url=url).database, options.entries))


if __name__ == "__main__":
    main()
