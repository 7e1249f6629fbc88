"""Sums over the ledger, by group, in SQL."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, Row, Text, case, func, literal, select, true, type_coerce
from sqlalchemy.sql.selectable import TableValuedAlias

from batchyard.billing.database import Database
from batchyard.billing.ledger_store import Selection, conditions
from batchyard.billing.tables import ledger_entries as table
from batchyard.common.contracts.billing import SpendGroup
from batchyard.common.money import UNITS_PER_WHOLE, from_units

_DAY = 86_400
_METADATA = "metadata."


class SpendSums:
    """The answers to who spent what. Every method raises ServiceUnavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sums(
        self, selection: Selection, currency: str, group_by: str, limit: int, page: int
    ) -> tuple[list[SpendGroup], SpendGroup]:
        """Page `page` (from 1) of the groups, in their order, what has no group last, and the first one of the next
        page if there is one; and the sum of all entries.

        Args:
            currency: Entries in others are left out: they cannot be added up.
            limit: Groups at most.
        """
        groups, source = self._groups(group_by)
        chosen = [*conditions(selection), table.c.currency == currency]
        charges = table.c.position >= 0 if group_by == "model" else table.c.position == 0
        query = (
            select(*groups, *_sums(charges))
            .select_from(source)
            .where(*chosen)
            .group_by(*groups)
            .order_by(*(self._sortable(group).asc().nulls_last() for group in groups))
            .limit(limit + 1)
            .offset((page - 1) * limit)
        )
        total = select(*_sums(table.c.position == 0)).where(*chosen)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
            everything = (await connection.execute(total)).one()
        return [_group(row, group_by) for row in rows], _sum_of(everything, None)

    def _groups(self, group_by: str) -> tuple[list[ColumnElement[Any]], FromClause]:
        """What to group by, and where it is found."""
        if group_by == "key":
            return [table.c.key_alias.label("a"), table.c.key_id.label("b")], table
        if group_by == "tag":
            pairs = self._pairs()
            return [pairs.c.key.label("a"), pairs.c.value.label("b")], table.join(pairs, true())
        if group_by.startswith(_METADATA):
            return [self._member(group_by.removeprefix(_METADATA)).label("a")], table
        columns = {"model": table.c.model, "team": table.c.tenant, "day": table.c.finished_at // _DAY}
        return [columns[group_by].label("a")], table

    def _member(self, name: str) -> ColumnElement[Any]:
        if self._database.dialect == "sqlite":
            return func.json_extract(table.c.metadata, f'$."{name}"')
        return table.c.metadata.op("->>", return_type=Text())(literal(name, Text()))

    def _pairs(self) -> TableValuedAlias:
        if self._database.dialect == "sqlite":
            return func.json_each(table.c.metadata).table_valued("key", "value", name="pairs")
        return func.json_each_text(table.c.metadata).table_valued("key", "value", name="pairs").render_derived()

    def _sortable(self, group: ColumnElement[Any]) -> ColumnElement[Any]:
        """By code points, as Python and SQLite sort text, whatever the database's language."""
        is_text = not isinstance(group.type, BigInteger)
        return group.collate("C") if is_text and self._database.dialect == "postgresql" else group


def _sums(charges: ColumnElement[bool]) -> list[ColumnElement[Any]]:
    # Two sums, because SQLite's is an error beyond 64 bits: 922 million of the currency, little in some of them.
    units = type_coerce(table.c.cost, BigInteger)
    return [
        func.count(case((charges, 1))).label("batches"),
        func.sum(table.c.requests_completed + table.c.requests_failed).label("requests"),
        func.sum(table.c.input_tokens).label("input_tokens"),
        func.sum(table.c.cached_tokens).label("cached_tokens"),
        func.sum(table.c.output_tokens).label("output_tokens"),
        func.sum(table.c.busy_microseconds).label("busy"),
        func.sum(units // UNITS_PER_WHOLE).label("wholes"),
        func.sum(units % UNITS_PER_WHOLE).label("units"),
    ]


def _group(row: Row[Any], group_by: str) -> SpendGroup:
    if group_by == "key":
        return _sum_of(row, row.a, row.b)
    if group_by == "tag":
        return _sum_of(row, f"{row.a}:{row.b}")
    if group_by == "day":
        return _sum_of(row, datetime.fromtimestamp(row.a * _DAY, UTC).date().isoformat())
    return _sum_of(row, row.a)


def _sum_of(row: Row[Any], group: str | None, key_id: str | None = None) -> SpendGroup:
    return SpendGroup(
        group=group,
        key_id=key_id,
        batches=row.batches,
        requests=int(row.requests or 0),
        input_tokens=int(row.input_tokens or 0),
        cached_tokens=int(row.cached_tokens or 0),
        output_tokens=int(row.output_tokens or 0),
        busy_seconds=Decimal(int(row.busy or 0)).scaleb(-6),
        cost=from_units(int(row.wholes or 0) * UNITS_PER_WHOLE + int(row.units or 0)),
    )
