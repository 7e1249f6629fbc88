"""The sums by day against the entries: they are the same as long as nobody changes the database by other ways."""

from typing import Any

from sqlalchemy import FromClause, Select, Table, func, literal, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from batchyard.billing.database import Database
from batchyard.billing.spend_rows import ENTRIES
from batchyard.billing.tables import Word, budget_days, spend_by_day


class SpendDays:
    """The sums that the database keeps. Every method raises ServiceUnavailable when it does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def wrong(self) -> int:
        """How many sums are not those of the entries, missing ones included."""
        count = 0
        async with self._database.reading() as connection:
            for table, sums in _SUMS.items():
                wrong = sums.except_(select(table))
                surplus = select(table).except_(sums)
                numbers = [await _count(connection, each.subquery()) for each in (wrong, surplus)]
                count += max(numbers)
        return count

    async def recompute(self) -> None:
        """Sum all entries up again, while nobody may add one."""
        async with self._database.writing() as connection:
            if self._database.dialect == "postgresql":
                await connection.execute(text("LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE"))
            for table, sums in _SUMS.items():
                await connection.execute(table.delete())
                await connection.execute(table.insert().from_select([column.name for column in table.c], sums))


async def _count(connection: AsyncConnection, rows: FromClause) -> int:
    return int(await connection.scalar(select(func.count()).select_from(rows)) or 0)


def _budgets() -> Select[Any]:
    rows = ENTRIES.subquery("rows")
    of_team = select(*(literal("", Word()).label("scope") if name == "scope" else rows.c[name] for name in _BUDGET))
    of_key = select(*(rows.c.key_id.label("scope") if name == "scope" else rows.c[name] for name in _BUDGET))
    return _summed(union_all(of_team, of_key.where(rows.c.key_id != "")).subquery("scopes"), budget_days)


def _summed(rows: FromClause, table: Table) -> Select[Any]:
    keys = [rows.c[column.name] for column in table.primary_key]
    sums = [func.sum(rows.c[column.name]).label(column.name) for column in table.c if not column.primary_key]
    return select(*keys, *sums).group_by(*keys)


_BUDGET = tuple(column.name for column in budget_days.c)
_SUMS = {spend_by_day: _summed(ENTRIES.subquery("rows"), spend_by_day), budget_days: _budgets()}
"""What each table must hold."""
