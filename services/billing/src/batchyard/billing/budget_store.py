"""Budgets in SQL: what is set aside, decided and written in one transaction for each team at a time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Subquery,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from batchyard.billing.budget import Scope, Shortfall, Standing, shortfall
from batchyard.billing.database import Database
from batchyard.billing.spend_rows import COST_UNITS, COST_WHOLES, whole_days
from batchyard.billing.tables import budget_alerts, budget_days, budget_keys, budget_reservations, ledger_entries
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.events import BudgetEvent
from batchyard.common.money import UNITS_PER_WHOLE, from_units

_INSERT: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True, slots=True)
class Wish:
    """An amount to be set aside for a batch (raw ID). `planned`: the amount is what the batch's lines come to."""

    tenant: str
    batch_id: str
    key_id: str | None
    amount: Decimal
    currency: str
    planned: bool
    now: int


class BudgetStore:
    """Reservations of every tenant. Every method raises ServiceUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = _INSERT[database.dialect]
        # SQLite lets writers try their luck for a while, and many at once are too many: here they queue up.
        self._turn = asyncio.Lock()

    async def reserve(self, wish: Wish, scopes: Sequence[Scope]) -> Shortfall | None:
        """Set the amount aside if all budgets hold it; the first one that does not, otherwise.

        A planned batch that does not fit keeps its amount, and waits for those that run and for older ones that wait.
        One that has been billed already has nothing set aside any more.
        """
        async with self._turn, self._database.writing() as connection:
            await self._take_turn(connection, wish.tenant)
            if await _is_billed(connection, wish):
                return None
            if not wish.planned and await _is_reserved(connection, wish):
                return None
            lack = None
            for scope in scopes:
                standing = await self._standing(connection, wish.tenant, scope, wish.currency, before=wish.batch_id)
                lack = lack or shortfall(scope, standing, wish.amount, wish.currency)
            if lack is None or wish.planned:
                await self._write(connection, wish, waits=lack is not None)
            if not wish.planned:  # which tells limits as they were when the batch was made
                for scope in scopes:
                    await self._remember(connection, wish.tenant, scope)
            return lack

    async def standing(self, tenant: str, scope: Scope, currency: str) -> Standing:
        """What was spent and is set aside now."""
        async with self._database.reading() as connection:
            return await self._standing(connection, tenant, scope, currency)

    async def spent(self, scopes: Sequence[tuple[str, Scope]], currency: str) -> list[Decimal]:
        """What was spent, of each tenant and scope, by one state of the ledger."""
        async with self._database.reading() as connection:
            return [
                sum(await _amounts(connection, _spent(tenant, scope, currency)), Decimal(0)) for tenant, scope in scopes
            ]

    async def limits_of_key(self, tenant: str, key_id: str) -> Limits | None:
        """The limits of a key that has a budget, as they were last told."""
        query = select(budget_keys.c.limits).where(budget_keys.c.tenant == tenant, budget_keys.c.key_id == key_id)
        async with self._database.reading() as connection:
            limits = await connection.scalar(query)
        return None if limits is None else Limits.model_validate(limits)

    async def release(self, tenant: str, batch_id: str) -> bool:
        """Set nothing aside for a batch any more; whether something was."""
        async with self._database.writing() as connection:
            return await release(connection, tenant, batch_id)

    async def reserved_before(self, moment: int) -> list[tuple[str, str]]:
        """Tenant and raw ID of the batches for which something was set aside before a Unix second."""
        table = budget_reservations
        query = select(table.c.tenant, table.c.batch_id).where(table.c.reserved_at < moment)
        async with self._database.reading() as connection:
            return [(row.tenant, row.batch_id) for row in await connection.execute(query)]

    async def is_billed(self, tenant: str, batch_id: str) -> bool:
        async with self._database.reading() as connection:
            return await _has_entry(connection, tenant, batch_id)

    async def alert(self, event: BudgetEvent) -> bool:
        """Note that something is to be told, once in a period; whether this is the first time."""
        values = {
            "tenant": event.tenant,
            "scope": event.key_id or "",
            "period_start": event.period_start,
            "event": event.model_dump(mode="json"),
        }
        insert = self._insert(budget_alerts).on_conflict_do_nothing().returning(budget_alerts.c.tenant)
        async with self._database.writing() as connection:
            return await connection.scalar(insert, values) is not None

    async def untold(self) -> list[BudgetEvent]:
        """What has not been published yet."""
        query = select(budget_alerts.c.event).where(budget_alerts.c.told_at.is_(None)).limit(100)
        async with self._database.reading() as connection:
            return [BudgetEvent.model_validate(event) for event in await connection.scalars(query)]

    async def told(self, event: BudgetEvent, now: int) -> None:
        """It has been published."""
        table = budget_alerts
        change = update(table).where(
            table.c.tenant == event.tenant,
            table.c.scope == (event.key_id or ""),
            table.c.period_start == event.period_start,
        )
        async with self._database.writing() as connection:
            await connection.execute(change.values(told_at=now))

    async def _take_turn(self, connection: AsyncConnection, tenant: str) -> None:
        """Wait until no one else decides for this tenant. SQLite has one writer at a time anyway."""
        if self._database.dialect == "postgresql":
            digest = sha256(f"budget {tenant}".encode(errors="surrogatepass")).digest()
            key = int.from_bytes(digest[:8], "big", signed=True)
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})

    async def _standing(
        self, connection: AsyncConnection, tenant: str, scope: Scope, currency: str, before: str | None = None
    ) -> Standing:
        """What counts; with `before`, only what goes before that batch.

        One statement, and so one state of the database: an entry that takes a reservation's place is seen as either.
        """
        held = budget_reservations.c
        reserved: list[ColumnElement[bool]] = [held.tenant == tenant, held.currency == currency]
        if scope.key_id is not None:
            reserved.append(held.key_id == scope.key_id)
        if before is not None:
            reserved += [held.batch_id != before, or_(held.waits == 0, held.batch_id < before)]
        amount = type_coerce(held.amount, BigInteger)
        sums = [
            *_spent(tenant, scope, currency),
            _sums("reserved", amount // UNITS_PER_WHOLE, amount % UNITS_PER_WHOLE, reserved),
        ]
        *spent, reserves = await _amounts(connection, sums)
        return Standing(sum(spent, Decimal(0)), reserves)

    async def _write(self, connection: AsyncConnection, wish: Wish, *, waits: bool) -> None:
        values = {
            "tenant": wish.tenant,
            "batch_id": wish.batch_id,
            "key_id": wish.key_id,
            "amount": wish.amount,
            "currency": wish.currency,
            "waits": int(waits),
            "reserved_at": wish.now,
        }
        insert = self._insert(budget_reservations).values(values)
        changed = {name: insert.excluded[name] for name in ("amount", "currency", "waits")}
        keys = [budget_reservations.c.tenant, budget_reservations.c.batch_id]
        await connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed))

    async def _remember(self, connection: AsyncConnection, tenant: str, scope: Scope) -> None:
        if scope.key_id is None:
            return
        limits = scope.limits.model_dump(mode="json", exclude_none=True)
        insert = self._insert(budget_keys).values(tenant=tenant, key_id=scope.key_id, limits=limits)
        keys = [budget_keys.c.tenant, budget_keys.c.key_id]
        await connection.execute(
            insert.on_conflict_do_update(index_elements=keys, set_={"limits": insert.excluded.limits})
        )


async def release(connection: AsyncConnection, tenant: str, batch_id: str) -> bool:
    """Set nothing aside for a batch any more, in the caller's transaction; whether something was."""
    table = budget_reservations
    gone = delete(table).where(table.c.tenant == tenant, table.c.batch_id == batch_id).returning(table.c.batch_id)
    return await connection.scalar(gone) is not None


def _spent(tenant: str, scope: Scope, currency: str) -> list[Subquery]:
    """What was spent in a period: the sums of its whole days, and the entries of the day in which it began."""
    days, entries = budget_days.c, ledger_entries.c
    first, edge = whole_days(scope.period.start)
    sums = _sums(
        "days",
        days.cost_wholes,
        days.cost_units,
        [days.tenant == tenant, days.scope == (scope.key_id or ""), days.currency == currency, days.day >= first],
    )
    if edge is None:
        return [sums]
    cut = [entries.tenant == tenant, entries.currency == currency]
    cut += [entries.finished_at >= edge[0], entries.finished_at < edge[1]]
    if scope.key_id is not None:
        cut.append(entries.key_id == scope.key_id)
    return [sums, _sums("entries", COST_WHOLES, COST_UNITS, cut)]


def _sums(
    name: str, wholes: ColumnElement[int], units: ColumnElement[int], conditions: Sequence[ColumnElement[bool]]
) -> Subquery:
    """Whole units of the currency and the rest, in one pass."""
    sums = (func.coalesce(func.sum(part), literal(0)) for part in (wholes, units))
    return (
        select(*(each.label(label) for each, label in zip(sums, ("wholes", "units"), strict=True)))
        .where(*conditions)
        .subquery(name)
    )


async def _amounts(connection: AsyncConnection, sums: Sequence[Subquery]) -> list[Decimal]:
    """What sums come to, asked together."""
    joined: FromClause = sums[0]
    for each in sums[1:]:
        joined = joined.join(each, true())
    together = select(*(column for each in sums for column in each.c)).select_from(joined)
    row = (await connection.execute(together)).one()
    pairs = zip(row[::2], row[1::2], strict=True)
    return [from_units(int(wholes) * UNITS_PER_WHOLE + int(units)) for wholes, units in pairs]


async def _is_billed(connection: AsyncConnection, wish: Wish) -> bool:
    return await _has_entry(connection, wish.tenant, wish.batch_id)


async def _has_entry(connection: AsyncConnection, tenant: str, batch_id: str) -> bool:
    table = ledger_entries
    query = select(table.c.entry_id).where(table.c.tenant == tenant, table.c.batch_id == batch_id).limit(1)
    return await connection.scalar(query) is not None


async def _is_reserved(connection: AsyncConnection, wish: Wish) -> bool:
    table = budget_reservations
    query = select(table.c.batch_id).where(table.c.tenant == wish.tenant, table.c.batch_id == wish.batch_id)
    return await connection.scalar(query) is not None
