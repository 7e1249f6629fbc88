"""Sums of the ledger by day, kept by the database itself: whoever adds an entry, an older replica too, adds to them.

The sum of a team's day comes first in the trigger: its row is what transactions about the same day wait for, so that
two of them never hold what the other one needs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_WHOLE = 10**10
_DAY = 86_400

# An empty text is none: NULLs would not be one key. PostgreSQL's index holds 2704 bytes, and names may be longer.
_KEYS = {
    "tenant": "{0}tenant",
    "day": f"{{0}}finished_at / {_DAY}",
    "currency": "{0}currency",
    "key_id": "coalesce({0}key_id, '')",
    "key_alias": "substr(coalesce({0}key_alias, ''), 1, 128)",
    "model": "substr(coalesce({0}model, ''), 1, 256)",
}
_COST = {"cost_wholes": f"{{0}}cost / {_WHOLE}", "cost_units": f"{{0}}cost % {_WHOLE}"}
_AMOUNTS = {
    "batches": "CASE WHEN {0}position = 0 THEN 1 ELSE 0 END",
    "charges": "CASE WHEN {0}position >= 0 THEN 1 ELSE 0 END",
    "requests": "{0}requests_completed + {0}requests_failed",
    **{name: f"{{0}}{name}" for name in ("input_tokens", "cached_tokens", "output_tokens", "busy_microseconds")},
    **_COST,
}
_TEAM = {"tenant": _KEYS["tenant"], "scope": "''", "currency": _KEYS["currency"], "day": _KEYS["day"]}
_KEY = {**_TEAM, "scope": "{0}key_id"}
_HAS_KEY = "coalesce({0}key_id, '') <> ''"

_STEPS = (
    ("budget_days", _TEAM, _COST, "1 = 1"),
    ("budget_days", _KEY, _COST, _HAS_KEY),
    ("spend_by_day", _KEYS, _AMOUNTS, "1 = 1"),
)
"""Table, its key, what is added up, and of which entries, in the order in which the trigger writes."""


def upgrade() -> None:
    op.create_table(
        "spend_by_day",
        *(sa.Column(name, sa.BigInteger() if name == "day" else sa.Text(), nullable=False) for name in _KEYS),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _AMOUNTS),
        sa.PrimaryKeyConstraint(*_KEYS, name="pk_spend_by_day"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_spend_by_day_day", "spend_by_day", ["day"])
    op.create_table(
        "budget_days",
        *(sa.Column(name, sa.BigInteger() if name == "day" else sa.Text(), nullable=False) for name in _TEAM),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COST),
        sa.PrimaryKeyConstraint(*_TEAM, name="pk_budget_days"),
        sqlite_with_rowid=False,
    )
    # The trigger before the sums: PostgreSQL lets nobody write from here to the end, and the sums miss no entry.
    _keep_sums()
    for table, keys, amounts, condition in _STEPS:
        _sum_up(table, keys, amounts, condition)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER ledger_entries_are_summed ON ledger_entries")
        op.execute("DROP FUNCTION batchyard_sum_entries()")
    else:
        op.execute("DROP TRIGGER ledger_entries_are_summed")
    op.drop_table("budget_days")
    op.drop_table("spend_by_day")


def _keep_sums() -> None:
    steps = " ".join(_adding(*step) for step in _STEPS)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION batchyard_sum_entries() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {steps} "
            "RETURN NULL; END $$"
        )
        op.execute(
            "CREATE TRIGGER ledger_entries_are_summed AFTER INSERT ON ledger_entries "
            "FOR EACH ROW EXECUTE FUNCTION batchyard_sum_entries()"
        )
    else:
        op.execute(
            f"CREATE TRIGGER ledger_entries_are_summed AFTER INSERT ON ledger_entries FOR EACH ROW BEGIN {steps} END"
        )


def _adding(table: str, keys: dict[str, str], amounts: dict[str, str], condition: str) -> str:
    """Add a new entry to a sum."""
    names = ", ".join((*keys, *amounts))
    values = ", ".join(expression.format("NEW.") for expression in (*keys.values(), *amounts.values()))
    more = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in amounts)
    return (
        f"INSERT INTO {table} ({names}) SELECT {values} WHERE {condition.format('NEW.')} "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {more};"
    )


def _sum_up(table: str, keys: dict[str, str], amounts: dict[str, str], condition: str) -> None:
    """The sums of the entries that are there."""
    names = ", ".join((*keys, *amounts))
    groups = ", ".join(expression.format("") for expression in keys.values())
    sums = ", ".join(f"sum({expression.format('')})" for expression in amounts.values())
    places = ", ".join(str(place) for place in range(1, len(keys) + 1))
    op.execute(
        f"INSERT INTO {table} ({names}) SELECT {groups}, {sums} FROM ledger_entries "  # noqa: S608
        f"WHERE {condition.format('')} GROUP BY {places}"
    )
