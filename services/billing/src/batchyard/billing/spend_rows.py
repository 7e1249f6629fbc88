"""What sums are made of: entries of the ledger, and the sums of whole days that the database keeps.

A question about a period is answered by the days that lie in it, and by the entries of those that it cuts.
"""

from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, case, func, literal, or_, select, type_coerce, union_all
from sqlalchemy.types import BigInteger

from batchyard.billing.selection import Selection, conditions, second
from batchyard.billing.tables import ledger_entries as table
from batchyard.billing.tables import spend_by_day
from batchyard.common.money import UNITS_PER_WHOLE

DAY = 86_400
_ALIAS_CHARACTERS = 128
MODEL_CHARACTERS = 256

_units = type_coerce(table.c.cost, BigInteger)
COST_WHOLES, COST_UNITS = _units // UNITS_PER_WHOLE, _units % UNITS_PER_WHOLE
"""An entry's cost in whole units of the currency, and the rest: SQLite's sum is an error beyond 64 bits, which are 922
million of the currency, and that is little in some of them."""

KEYS: dict[str, ColumnElement[Any]] = {
    "tenant": table.c.tenant,
    "day": table.c.finished_at // DAY,
    "currency": table.c.currency,
    "key_id": func.coalesce(table.c.key_id, ""),
    "key_alias": func.substr(func.coalesce(table.c.key_alias, ""), 1, _ALIAS_CHARACTERS),
    "model": func.substr(func.coalesce(table.c.model, ""), 1, MODEL_CHARACTERS),
}
"""What a row of `spend_by_day` is the sum of, in terms of an entry: as its trigger has it."""

AMOUNTS: dict[str, ColumnElement[Any]] = {
    "batches": case((table.c.position == 0, 1), else_=0),
    "charges": case((table.c.position >= 0, 1), else_=0),
    "requests": table.c.requests_completed + table.c.requests_failed,
    "input_tokens": table.c.input_tokens,
    "cached_tokens": table.c.cached_tokens,
    "output_tokens": table.c.output_tokens,
    "busy_microseconds": table.c.busy_microseconds,
    "cost_wholes": COST_WHOLES,
    "cost_units": COST_UNITS,
}
"""What is added up."""

ENTRIES = select(*(column.label(name) for name, column in (KEYS | AMOUNTS).items()))
"""All entries in the columns of `spend_by_day`."""


def rows(selection: Selection, currency: str) -> Subquery:
    """The selected entries in a currency, in the columns of `spend_by_day`, with their metadata."""
    return _entries(selection, currency).add_columns(table.c.metadata.label("metadata")).subquery("entries")


def daily(selection: Selection, currency: str) -> Subquery:
    """The same, of whole days in their sums, and without metadata."""
    if selection.batch_id is not None or selection.entry_id is not None:
        return _entries(selection, currency).subquery("spend")
    first, last, edges = _split(selection.start, selection.end)
    parts = [_entries(selection, currency, edge) for edge in edges]
    if first is None or last is None or first <= last:
        parts.insert(0, _days(selection, currency, first, last))
    return (parts[0] if len(parts) == 1 else union_all(*parts)).subquery("spend")


def whole_days(start: int) -> tuple[int, tuple[int, int] | None]:
    """The first day (Unix days) that begins at or after a Unix second, and the seconds until then, if any."""
    first = -(-start // DAY)
    return first, None if start % DAY == 0 else (start, first * DAY)


def _entries(selection: Selection, currency: str, period: tuple[int, int] | None = None) -> Select[Any]:
    chosen = [*conditions(selection), table.c.currency == currency]
    if period is not None:
        chosen += [table.c.finished_at >= period[0], table.c.finished_at < period[1]]
    return ENTRIES.where(*chosen)


def _days(selection: Selection, currency: str, first: int | None, last: int | None) -> Select[Any]:
    sums = spend_by_day.c
    chosen: list[ColumnElement[bool]] = [sums.currency == currency]
    if selection.tenant is not None:
        chosen.append(sums.tenant == selection.tenant)
    if selection.teams is not None:
        chosen.append(sums.tenant.in_(selection.teams))
    if selection.model is not None:
        chosen.append(sums.model == selection.model[:MODEL_CHARACTERS])
    if selection.key is not None:
        chosen.append(or_(sums.key_id == selection.key, sums.key_alias == selection.key[:_ALIAS_CHARACTERS]))
    if first is not None:
        chosen.append(sums.day >= literal(first, BigInteger()))
    if last is not None:
        chosen.append(sums.day < literal(last, BigInteger()))
    return select(*(sums[name] for name in (*KEYS, *AMOUNTS))).where(*chosen)


def _split(start: int | None, end: int | None) -> tuple[int | None, int | None, list[tuple[int, int]]]:
    """The first whole day of a period, the one after the last, and the seconds that lie in neither."""
    first = last = None
    edges = []
    if start is not None:
        first, edge = whole_days(second(start))
        edges += [] if edge is None else [edge]
    if end is not None:
        last = second(end) // DAY
        edges += [] if end % DAY == 0 else [(last * DAY, second(end))]
    if first is not None and last is not None and first > last:
        return first, last, [(second(start or 0), second(end or 0))]
    return first, last, edges
