"""The ledger in SQL: entries are added and read, never changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, RowMapping, func, literal, select, tuple_, type_coerce
from sqlalchemy.dialects import postgresql, sqlite

from batchyard.billing.database import Database
from batchyard.billing.entry import LedgerEntry
from batchyard.billing.money import UNITS_PER_WHOLE, from_units
from batchyard.billing.tables import ledger_entries as table
from batchyard.common.contracts.batches import RequestCounts, Usage
from batchyard.common.contracts.billing import GroupBy, LedgerLine, SpendGroup

_DAY = 86_400
_LAST_SECOND = 2**62
_INSERT: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries of one tenant: raw batch ID, model, and the time of the batches' end (Unix s, `end` exclusive)."""

    tenant: str
    batch_id: str | None = None
    model: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where an entry stands in a tenant's ledger: by the batch's end (Unix s), then by its own ID."""

    finished_at: int
    entry_id: str


class LedgerStore:
    """The entries of every tenant. Every method raises ServiceUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = _INSERT[database.dialect](table)
        self._add = insert.on_conflict_do_nothing().returning(table.c.entry_id)

    async def add(self, entry: LedgerEntry) -> bool:
        """Write `entry`, durably; False when its batch has an entry already, which stays as it was."""
        async with self._database.writing() as connection:
            added = await connection.scalar(self._add, _values(entry))
        return added is not None

    async def position(self, tenant: str, batch_id: str) -> Position | None:
        """Where the entry of a batch (raw ID) stands, or None when `tenant` has no such entry."""
        query = (
            select(table.c.finished_at, table.c.entry_id)
            .where(table.c.tenant == tenant, table.c.batch_id == batch_id)
            .order_by(table.c.finished_at, table.c.entry_id)
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Position(row.finished_at, row.entry_id)

    async def page(self, selection: Selection, limit: int, after: Position | None = None) -> list[LedgerEntry]:
        """At most `limit` entries, newest first, from the one that follows `after`."""
        order = tuple_(table.c.finished_at, table.c.entry_id)
        query = select(table).where(*_conditions(selection))
        if after is not None:
            query = query.where(order < tuple_(literal(after.finished_at), literal(after.entry_id)))
        query = query.order_by(table.c.finished_at.desc(), table.c.entry_id.desc()).limit(limit)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_entry(row) for row in rows]

    async def sums(self, selection: Selection, group_by: GroupBy, currency: str) -> list[SpendGroup]:
        """The sums of each group's entries in `currency`, in no particular order."""
        group = _GROUPS[group_by]
        units = type_coerce(table.c.cost, BigInteger)
        # Two sums, because SQLite's is an error beyond 64 bits: 922 million of the currency, little in some of them.
        query = (
            select(
                group.label("group"),
                func.count().label("batches"),
                func.sum(table.c.requests_completed + table.c.requests_failed).label("requests"),
                func.sum(table.c.input_tokens).label("input_tokens"),
                func.sum(table.c.cached_tokens).label("cached_tokens"),
                func.sum(table.c.output_tokens).label("output_tokens"),
                func.sum(units // UNITS_PER_WHOLE).label("wholes"),
                func.sum(units % UNITS_PER_WHOLE).label("units"),
            )
            .where(*_conditions(selection), table.c.currency == currency)
            .group_by(group)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return [_group(row, group_by) for row in rows]

    async def check(self) -> None:
        """Return when an entry could be written now."""
        async with self._database.writing() as connection:
            await connection.execute(select(table.c.entry_id).limit(1))


_GROUPS: dict[GroupBy, ColumnElement[Any]] = {
    "model": table.c.model,
    "key": table.c.key_alias,
    "day": table.c.finished_at // _DAY,
}


def _conditions(selection: Selection) -> Sequence[ColumnElement[bool]]:
    conditions = [table.c.tenant == selection.tenant]
    if selection.batch_id is not None:
        conditions.append(table.c.batch_id == selection.batch_id)
    if selection.model is not None:
        conditions.append(table.c.model == selection.model)
    if selection.start is not None:
        conditions.append(table.c.finished_at >= _second(selection.start))
    if selection.end is not None:
        conditions.append(table.c.finished_at < _second(selection.end))
    return conditions


def _second(time: int) -> int:
    # Beyond 64 bits a driver raises, though the meaning is clear: before, or after, every entry.
    return max(-_LAST_SECOND, min(time, _LAST_SECOND))


def _values(entry: LedgerEntry) -> dict[str, Any]:
    line = entry.line
    usage = line.usage
    return {
        **{name: getattr(line, name) for name in _SAME},
        "entry_id": f"{entry.raw_batch_id}.0",
        "kind": "charge",
        "position": 0,
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
        "busy_microseconds": 0,
        "usage_by_deployment": {name: used.model_dump() for name, used in entry.usage_by_deployment.items()},
        "prices": {name: dict(prices) for name, prices in entry.prices.items()},
    }


_SAME = tuple(name for name in LedgerLine.model_fields if name in table.c and name != "batch_id")
"""The members of a line that are columns of the same name."""


def _entry(row: RowMapping) -> LedgerEntry:
    line = LedgerLine(
        **{name: row[name] for name in _SAME},
        batch_id=row["public_batch_id"],
        request_counts=RequestCounts(
            total=row["requests_total"], completed=row["requests_completed"], failed=row["requests_failed"]
        ),
        usage=Usage.of(row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["reasoning_tokens"]),
    )
    return LedgerEntry(
        line=line,
        raw_batch_id=row["batch_id"],
        event_id=row["event_id"],
        usage_by_deployment={name: Usage(**used) for name, used in row["usage_by_deployment"].items()},
        prices=row["prices"],
    )


def _group(row: Row[Any], group_by: GroupBy) -> SpendGroup:
    group = row.group
    if group_by == "day":
        group = datetime.fromtimestamp(group * _DAY, UTC).date().isoformat()
    return SpendGroup(
        group=group,
        batches=row.batches,
        requests=int(row.requests),
        input_tokens=int(row.input_tokens),
        cached_tokens=int(row.cached_tokens),
        output_tokens=int(row.output_tokens),
        cost=from_units(int(row.wholes) * UNITS_PER_WHOLE + int(row.units)),
    )
