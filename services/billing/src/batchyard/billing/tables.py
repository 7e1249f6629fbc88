"""The ledger's tables and the types of their columns, the same in SQLite and PostgreSQL."""

from collections.abc import Mapping
from decimal import Decimal

from sqlalchemy import JSON, BigInteger, Column, Dialect, Index, MetaData, Table, Text, TypeDecorator

from batchyard.common.money import from_units, to_units

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    },
)


class Money(TypeDecorator[Decimal]):
    """An amount, as a whole number of units of 1e-10: exact, and a sum over it is exact."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, _dialect: Dialect) -> int | None:
        return None if value is None else to_units(value)

    def process_result_value(self, value: int | None, _dialect: Dialect) -> Decimal | None:
        return None if value is None else from_units(value)


class ExactDecimal(TypeDecorator[Decimal]):
    """A number shown and never added up, such as a price per token: its digits as text, however many."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, _dialect: Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: str | None, _dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Word(TypeDecorator[str]):
    """Text that came from outside. PostgreSQL cannot hold U+0000, so it is kept as U+FFFD: no name stops the ledger."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


class Words(TypeDecorator[Mapping[str, str]]):
    """Pairs of text that came from outside, without U+0000: PostgreSQL would keep it in JSON, and then fail to look."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, str] | None, _dialect: Dialect) -> dict[str, str] | None:
        if value is None:
            return None
        shown = "\N{REPLACEMENT CHARACTER}"
        return {name.replace("\0", shown): text.replace("\0", shown) for name, text in value.items()}


# Times are Unix seconds. `batch_id` is the raw ID; `usage_by_deployment` and `prices` are keyed by deployment ID. An
# entry is a `charge`, at its position among those of its batch, or an `adjustment`, which has an author and a reason.
ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("tenant", Word, primary_key=True),
    Column("entry_id", Word, primary_key=True),
    Column("kind", Word, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("batch_id", Word),
    Column("public_batch_id", Word),
    Column("event_id", Word),
    Column("key_id", Word),
    Column("key_alias", Word),
    Column("model", Word),
    Column("endpoint", Word),
    Column("status", Word),
    Column("requests_total", BigInteger, nullable=False),
    Column("requests_completed", BigInteger, nullable=False),
    Column("requests_failed", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("busy_microseconds", BigInteger, nullable=False),
    Column("cost", Money, nullable=False),
    Column("currency", Word, nullable=False),
    Column("price_version", Word),
    Column("input_price", ExactDecimal),
    Column("cached_price", ExactDecimal),
    Column("output_price", ExactDecimal),
    Column("discount", ExactDecimal, nullable=False),
    Column("batch_created_at", BigInteger),
    Column("finished_at", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("metadata", Words),
    Column("usage_by_deployment", JSON, nullable=False),
    Column("prices", JSON, nullable=False),
    Column("reason", Word),
    Column("author", Word),
    Index(None, "tenant", "finished_at", "entry_id"),
    Index(None, "tenant", "batch_id"),
    Index(None, "finished_at"),
    Index(None, "tenant", "currency", "finished_at", "key_id", "cost"),
)

# What a day's entries (Unix days, in UTC) come to, kept by a trigger on the ledger. An empty text is none; names are
# cut off that an index could not hold (`spend_rows.KEYS`). Amounts are in two columns, so that no sum passes 64 bits.
spend_by_day = Table(
    "spend_by_day",
    metadata,
    Column("tenant", Word, primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("currency", Word, primary_key=True),
    Column("key_id", Word, primary_key=True),
    Column("key_alias", Word, primary_key=True),
    Column("model", Word, primary_key=True),
    Column("batches", BigInteger, nullable=False),
    Column("charges", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("busy_microseconds", BigInteger, nullable=False),
    Column("cost_wholes", BigInteger, nullable=False),
    Column("cost_units", BigInteger, nullable=False),
    Index(None, "day"),
    Index(None, "model", "day"),
)

# The same for budgets, a row for each day: `scope` is the key's ID, or empty for the team.
budget_days = Table(
    "budget_days",
    metadata,
    Column("tenant", Word, primary_key=True),
    Column("scope", Word, primary_key=True),
    Column("currency", Word, primary_key=True),
    Column("day", BigInteger, primary_key=True),
    Column("cost_wholes", BigInteger, nullable=False),
    Column("cost_units", BigInteger, nullable=False),
)

# What was charged for what, from a moment (Unix s, included) until the next version's: `prices` is the whole book.
price_versions = Table(
    "price_versions",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Word, nullable=False, unique=True),
    Column("digest", Word, nullable=False),
    Column("valid_from", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("prices", JSON, nullable=False),
)

# What is set aside for a batch (raw ID) that has not ended; `waits`: it came to more than was set aside, and waits.
budget_reservations = Table(
    "budget_reservations",
    metadata,
    Column("tenant", Word, primary_key=True),
    Column("batch_id", Word, primary_key=True),
    Column("key_id", Word),
    Column("amount", Money, nullable=False),
    Column("currency", Word, nullable=False),
    Column("waits", BigInteger, nullable=False),
    Column("reserved_at", BigInteger, nullable=False),
)

# The limits of keys that have a budget, as they were when last a batch was made under them.
budget_keys = Table(
    "budget_keys",
    metadata,
    Column("tenant", Word, primary_key=True),
    Column("key_id", Word, primary_key=True),
    Column("limits", JSON, nullable=False),
)

# What is told once in a period: `scope` is the key's ID, or empty for the team. `event` is published as it stands.
budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("tenant", Word, primary_key=True),
    Column("scope", Word, primary_key=True),
    Column("period_start", BigInteger, primary_key=True),
    Column("event", JSON, nullable=False),
    Column("told_at", BigInteger),
)
