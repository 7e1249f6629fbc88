"""Which entries of the ledger a question is about."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, or_

from batchyard.billing.tables import ledger_entries as table

_LAST_SECOND = 2**62


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries: of one tenant or, without it, of all; entry ID, raw batch ID, model, key (ID or alias), and the
    time of the batches' end (Unix s, `end` exclusive)."""

    tenant: str | None
    teams: tuple[str, ...] | None = None
    entry_id: str | None = None
    batch_id: str | None = None
    model: str | None = None
    key: str | None = None
    start: int | None = None
    end: int | None = None


def conditions(selection: Selection) -> list[ColumnElement[bool]]:
    """What an entry must fulfil."""
    found: list[ColumnElement[bool]] = []
    if selection.tenant is not None:
        found.append(table.c.tenant == selection.tenant)
    if selection.teams is not None:
        found.append(table.c.tenant.in_(selection.teams))
    if selection.entry_id is not None:
        found.append(table.c.entry_id == selection.entry_id)
    if selection.batch_id is not None:
        found.append(table.c.batch_id == selection.batch_id)
    if selection.model is not None:
        found.append(table.c.model == selection.model)
    if selection.key is not None:
        found.append(or_(table.c.key_id == selection.key, table.c.key_alias == selection.key))
    if selection.start is not None:
        found.append(table.c.finished_at >= second(selection.start))
    if selection.end is not None:
        found.append(table.c.finished_at < second(selection.end))
    return found


def second(time: int) -> int:
    """A Unix second that 64 bits hold: beyond them a driver raises, though it is clear what lies before or after."""
    return max(-_LAST_SECOND, min(time, _LAST_SECOND))
