"""Sums over the ledger, by group, in SQL."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, Row, Subquery, Text, func, literal, select, true
from sqlalchemy.sql.selectable import TableValuedAlias

from batchyard.billing.database import Database
from batchyard.billing.selection import Selection
from batchyard.billing.spend_rows import AMOUNTS, DAY, daily, rows
from batchyard.common.contracts.billing import SpendGroup
from batchyard.common.money import UNITS_PER_WHOLE, from_units

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

        Groups of metadata are summed from the entries themselves, all others from the sums of the days.

        Args:
            currency: Entries in others are left out: they cannot be added up.
            limit: Groups at most.
        """
        days = daily(selection, currency)
        spend = rows(selection, currency) if group_by.startswith(_METADATA) or group_by == "tag" else days
        groups, source = self._groups(group_by, spend)
        query = (
            select(*groups, *_sums(spend, "charges" if group_by == "model" else "batches"))
            .select_from(source)
            .group_by(*groups)
            .order_by(*(self._sortable(group).asc().nulls_last() for group in groups))
            .limit(limit + 1)
            .offset((page - 1) * limit)
        )
        async with self._database.reading() as connection:
            found = (await connection.execute(query)).all()
            everything = (await connection.execute(select(*_sums(days, "batches")))).one()
        return [_group(row, group_by) for row in found], _sum_of(everything, None)

    def _groups(self, group_by: str, spend: Subquery) -> tuple[list[ColumnElement[Any]], FromClause]:
        """What to group by, and where it is found."""
        if group_by == "key":
            return [_named(spend.c.key_alias).label("a"), _named(spend.c.key_id).label("b")], spend
        if group_by == "tag":
            pairs = self._pairs(spend)
            return [pairs.c.key.label("a"), pairs.c.value.label("b")], spend.join(pairs, true())
        if group_by.startswith(_METADATA):
            return [self._member(spend, group_by.removeprefix(_METADATA)).label("a")], spend
        columns = {"model": _named(spend.c.model), "team": spend.c.tenant, "day": spend.c.day}
        return [columns[group_by].label("a")], spend

    def _member(self, spend: Subquery, name: str) -> ColumnElement[Any]:
        if self._database.dialect == "sqlite":
            return func.json_extract(spend.c.metadata, f'$."{name}"')
        return spend.c.metadata.op("->>", return_type=Text())(literal(name, Text()))

    def _pairs(self, spend: Subquery) -> TableValuedAlias:
        if self._database.dialect == "sqlite":
            return func.json_each(spend.c.metadata).table_valued("key", "value", name="pairs")
        return func.json_each_text(spend.c.metadata).table_valued("key", "value", name="pairs").render_derived()

    def _sortable(self, group: ColumnElement[Any]) -> ColumnElement[Any]:
        """By code points, as Python and SQLite sort text, whatever the database's language."""
        is_text = not isinstance(group.type, BigInteger)
        return group.collate("C") if is_text and self._database.dialect == "postgresql" else group


def _named(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.nullif(column, "", type_=Text())


def _sums(spend: Subquery, batches: str) -> list[ColumnElement[Any]]:
    """The amounts, and what of them is counted as `batches`."""
    sums = [func.sum(spend.c[name]).label(name) for name in AMOUNTS if name not in ("batches", "charges")]
    return [func.sum(spend.c[batches]).label("batches"), *sums]


def _group(row: Row[Any], group_by: str) -> SpendGroup:
    if group_by == "key":
        return _sum_of(row, row.a, row.b)
    if group_by == "tag":
        return _sum_of(row, f"{row.a}:{row.b}")
    if group_by == "day":
        return _sum_of(row, datetime.fromtimestamp(row.a * DAY, UTC).date().isoformat())
    return _sum_of(row, row.a)


def _sum_of(row: Row[Any], group: str | None, key_id: str | None = None) -> SpendGroup:
    return SpendGroup(
        group=group,
        key_id=key_id,
        batches=int(row.batches or 0),
        requests=int(row.requests or 0),
        input_tokens=int(row.input_tokens or 0),
        cached_tokens=int(row.cached_tokens or 0),
        output_tokens=int(row.output_tokens or 0),
        busy_seconds=Decimal(int(row.busy_microseconds or 0)).scaleb(-6),
        cost=from_units(int(row.cost_wholes or 0) * UNITS_PER_WHOLE + int(row.cost_units or 0)),
    )
