"""The ledger and the price book in SQL: added to and read, never changed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from sqlalchemy import RowMapping, Select, func, literal, or_, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from batchyard.billing.budget_store import release
from batchyard.billing.database import Database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.price_book import PriceVersion, next_version
from batchyard.billing.selection import Selection, conditions
from batchyard.billing.tables import ledger_entries as table
from batchyard.billing.tables import price_versions
from batchyard.common.contracts.batches import RequestCounts
from batchyard.common.contracts.billing import LedgerLine
from batchyard.common.contracts.usage import Usage

_AT_ONCE = 1000
_INSERT: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_PRICES_LOCK = 0x70726963
"""PostgreSQL's advisory lock ("pric"): shared by who bills, alone for who changes the prices."""


class PricesMoved(Exception):
    """A version of the prices was written that whoever computed an entry had not seen."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where an entry stands in the ledger: by the batch's end (Unix s), then by its ID and tenant."""

    finished_at: int
    entry_id: str
    tenant: str


class LedgerStore:
    """The entries of every tenant. Every method raises ServiceUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = _INSERT[database.dialect](table)
        self._add = insert.on_conflict_do_nothing().returning(table.c.entry_id)

    async def add(self, entries: Sequence[LedgerEntry], version: PriceVersion | None = None) -> bool:
        """Write the entries of one batch, in the place of what was set aside for it, or one adjustment, durably and all
        at once; False when the first of them is there already, which stays as it was.

        Raises:
            PricesMoved: They were computed from `version`, and another one is there by now.
        """
        first, *others = entries
        async with self._database.writing() as connection:
            if version is not None:
                await self._lock(connection, "pg_advisory_xact_lock_shared")
                if await self._newest_number(connection, first.line.finished_at) != version.number:
                    raise PricesMoved
            is_new = await connection.scalar(self._add, values_of(first)) is not None
            if is_new:
                for entry in others:
                    await connection.execute(table.insert(), values_of(entry))
            if first.raw_batch_id is not None:
                await release(connection, first.line.tenant, first.raw_batch_id)
        return is_new

    async def release(self, tenant: str, batch_id: str) -> None:
        """Set nothing aside any more for a batch (raw ID) that has cost nothing."""
        async with self._database.writing() as connection:
            await release(connection, tenant, batch_id)

    async def add_prices(self, prices: Mapping[str, Any], now: float) -> PriceVersion | None:
        """Write a version of the price book, unless the last one says the same. `now` is in Unix seconds."""
        newest_end = select(table.c.finished_at).order_by(table.c.finished_at.desc()).limit(1)
        async with self._database.writing() as connection:
            await self._lock(connection, "pg_advisory_xact_lock")
            row = (await connection.execute(_versions().limit(1))).mappings().one_or_none()
            known = None if row is None else PriceVersion(**row)
            version = next_version(prices, known, await connection.scalar(newest_end), now)
            if version is not None:
                await connection.execute(price_versions.insert(), _columns(version))
        return version

    async def prices_at(self, moment: int) -> PriceVersion:
        """The prices that were valid at a Unix second. There must be some."""
        query = _versions().where(price_versions.c.valid_from <= max(moment, 0)).limit(1)
        async with self._database.reading() as connection:
            return PriceVersion(**(await connection.execute(query)).mappings().one())

    async def prices(self, limit: int, after: str | None = None) -> list[PriceVersion]:
        """At most `limit` versions, newest first, of those before the version `after`."""
        query = _versions().limit(limit)
        if after is not None:
            number = select(price_versions.c.number).where(price_versions.c.version == after).scalar_subquery()
            query = query.where(price_versions.c.number < number)
        async with self._database.reading() as connection:
            return [PriceVersion(**row) for row in (await connection.execute(query)).mappings()]

    async def position(self, tenant: str | None, entry_or_batch_id: str) -> Position | None:
        """Where an entry stands, the last of a batch (raw ID), or None when `tenant` has no such entry."""
        named = or_(table.c.entry_id == entry_or_batch_id, table.c.batch_id == entry_or_batch_id)
        query = select(table.c.finished_at, table.c.entry_id, table.c.tenant).where(
            *conditions(Selection(tenant)), named
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query.order_by(*_ORDER).limit(1))).one_or_none()
        return None if row is None else Position(row.finished_at, row.entry_id, row.tenant)

    async def page(self, selection: Selection, limit: int, after: Position | None = None) -> list[LedgerEntry]:
        """At most `limit` entries, newest first, from the one that follows `after`."""
        query = select(table).where(*conditions(selection))
        if after is not None:
            query = query.where(
                tuple_(*_ORDER) < tuple_(literal(after.finished_at), literal(after.entry_id), literal(after.tenant))
            )
        query = query.order_by(*(column.desc() for column in _ORDER)).limit(limit)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [entry_of(row) for row in rows]

    async def all(self) -> AsyncIterator[LedgerEntry]:
        """Every entry of every tenant, a thousand at a time; what is added meanwhile may be among them or not."""
        key = (table.c.tenant, table.c.entry_id)
        query = select(table).order_by(*key).limit(_AT_ONCE)
        last: tuple[str, str] | None = None
        while True:
            following = query if last is None else query.where(tuple_(*key) > tuple_(*map(literal, last)))
            async with self._database.reading() as connection:
                rows = (await connection.execute(following)).mappings().all()
            for row in rows:
                yield entry_of(row)
            if len(rows) < _AT_ONCE:
                return
            last = rows[-1]["tenant"], rows[-1]["entry_id"]

    async def entry(self, tenant: str, entry_id: str) -> LedgerEntry | None:
        found = await self.page(Selection(tenant, entry_id=entry_id), 1)
        return found[0] if found else None

    async def of_batch(self, tenant: str, batch_id: str) -> list[LedgerEntry]:
        """All that concerns a batch (raw ID)."""
        query = select(table).where(*conditions(Selection(tenant, batch_id=batch_id)))
        async with self._database.reading() as connection:
            return [entry_of(row) for row in (await connection.execute(query)).mappings()]

    async def all_prices(self) -> list[PriceVersion]:
        """Every version, oldest first."""
        query = select(price_versions).order_by(price_versions.c.number)
        async with self._database.reading() as connection:
            return [PriceVersion(**row) for row in (await connection.execute(query)).mappings()]

    async def copy_prices(self, versions: Sequence[PriceVersion]) -> None:
        """Take over the price book of another ledger."""
        async with self._database.writing() as connection:
            for version in versions:
                await connection.execute(price_versions.insert(), _columns(version))

    async def check(self) -> None:
        """Return when an entry could be written now."""
        async with self._database.writing() as connection:
            await connection.execute(select(table.c.entry_id).limit(1))

    async def _lock(self, connection: AsyncConnection, how: str) -> None:
        """SQLite has one writer at a time anyway."""
        if self._database.dialect == "postgresql":
            await connection.execute(text(f"SELECT {how}(:key)"), {"key": _PRICES_LOCK})

    async def _newest_number(self, connection: AsyncConnection, moment: int) -> int | None:
        newest = select(func.max(price_versions.c.number)).where(price_versions.c.valid_from <= max(moment, 0))
        number: int | None = await connection.scalar(newest)
        return number


_ORDER = (table.c.finished_at, table.c.entry_id, table.c.tenant)


def _columns(version: PriceVersion) -> dict[str, Any]:
    return {field.name: getattr(version, field.name) for field in fields(version)}


def _versions() -> Select[Any]:
    return select(price_versions).order_by(price_versions.c.number.desc())


def values_of(entry: LedgerEntry) -> dict[str, Any]:
    """An entry as a row."""
    line = entry.line
    usage = line.usage
    return {
        **{name: getattr(line, name) for name in _SAME},
        "entry_id": line.id,
        "position": entry.position,
        "batch_id": entry.raw_batch_id,
        "public_batch_id": line.batch_id,
        "event_id": entry.event_id,
        "requests_total": line.request_counts.total,
        "requests_completed": line.request_counts.completed,
        "requests_failed": line.request_counts.failed,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.input_tokens_details.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.output_tokens_details.reasoning_tokens,
        "busy_microseconds": int(line.busy_seconds.scaleb(6)),
        "usage_by_deployment": {name: used.model_dump() for name, used in entry.usage_by_deployment.items()},
        "prices": {name: dict(prices) for name, prices in entry.prices.items()},
    }


_SAME = tuple(name for name in LedgerLine.model_fields if name in table.c and name != "batch_id")
"""The members of a line that are columns of the same name."""


def entry_of(row: RowMapping) -> LedgerEntry:
    """The entry in a row."""
    line = LedgerLine(
        **{name: row[name] for name in _SAME},
        id=row["entry_id"],
        batch_id=row["public_batch_id"],
        busy_seconds=Decimal(row["busy_microseconds"]).scaleb(-6),
        request_counts=RequestCounts(
            total=row["requests_total"], completed=row["requests_completed"], failed=row["requests_failed"]
        ),
        usage=Usage.of(row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["reasoning_tokens"]),
    )
    return LedgerEntry(
        line=line,
        position=row["position"],
        raw_batch_id=row["batch_id"],
        event_id=row["event_id"],
        usage_by_deployment={name: Usage(**used) for name, used in row["usage_by_deployment"].items()},
        prices=row["prices"],
    )
