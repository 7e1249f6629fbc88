"""Several entries for a batch, one for each model; corrections; versions of the prices; and nothing is ever changed.

The table is made anew, because its key changes, which SQLite cannot alter. Entries that are there become the first one
of their batch.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_KEPT = (
    "tenant, batch_id, public_batch_id, event_id, key_alias, model, endpoint, status, requests_total, "
    "requests_completed, requests_failed, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost, "
    "currency, input_price, cached_price, output_price, discount, batch_created_at, finished_at, recorded_at, "
    "metadata, usage_by_deployment, prices"
)


def upgrade() -> None:
    op.rename_table("ledger_entries", "ledger_entries_0001")
    # PostgreSQL keeps the names of keys and indexes when a table is renamed; the new ones need them.
    if _dialect() == "postgresql":
        op.execute("ALTER INDEX pk_ledger_entries RENAME TO pk_ledger_entries_0001")
    op.drop_index("ix_ledger_entries_tenant_finished_at_batch_id", "ledger_entries_0001")
    _create_entries()
    op.execute(
        f"INSERT INTO ledger_entries ({_KEPT}, entry_id, position, kind, busy_microseconds) "  # noqa: S608
        f"SELECT {_KEPT}, batch_id || '.0', 0, 'charge', 0 FROM ledger_entries_0001"
    )
    op.drop_table("ledger_entries_0001")
    op.create_table(
        "price_versions",
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("prices", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_price_versions"),
        sa.UniqueConstraint("version", name="uq_price_versions_version"),
    )
    _make_append_only()


def downgrade() -> None:
    raise NotImplementedError("a ledger with corrections cannot go back to one entry for each batch")


def _dialect() -> str:
    return op.get_bind().dialect.name


def _create_entries() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.Text()),
        sa.Column("public_batch_id", sa.Text()),
        sa.Column("event_id", sa.Text()),
        sa.Column("key_id", sa.Text()),
        sa.Column("key_alias", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("endpoint", sa.Text()),
        sa.Column("status", sa.Text()),
        sa.Column("requests_total", sa.BigInteger(), nullable=False),
        sa.Column("requests_completed", sa.BigInteger(), nullable=False),
        sa.Column("requests_failed", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("busy_microseconds", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("price_version", sa.Text()),
        sa.Column("input_price", sa.Text()),
        sa.Column("cached_price", sa.Text()),
        sa.Column("output_price", sa.Text()),
        sa.Column("discount", sa.Text(), nullable=False),
        sa.Column("batch_created_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.JSON()),
        sa.Column("usage_by_deployment", sa.JSON(), nullable=False),
        sa.Column("prices", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("author", sa.Text()),
        sa.PrimaryKeyConstraint("tenant", "entry_id", name="pk_ledger_entries"),
    )
    op.create_index(
        "ix_ledger_entries_tenant_finished_at_entry_id", "ledger_entries", ["tenant", "finished_at", "entry_id"]
    )
    op.create_index("ix_ledger_entries_tenant_batch_id", "ledger_entries", ["tenant", "batch_id"])
    op.create_index("ix_ledger_entries_finished_at", "ledger_entries", ["finished_at"])


_SQLITE = """
CREATE TRIGGER {table}_is_never_{verb}d BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRESQL_FUNCTION = """
CREATE FUNCTION batchyard_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
"""
_POSTGRESQL = """
CREATE TRIGGER {table}_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION batchyard_append_only()
"""


def _make_append_only() -> None:
    if _dialect() == "postgresql":
        op.execute(_POSTGRESQL_FUNCTION)
    for table in ("ledger_entries", "price_versions"):
        if _dialect() == "postgresql":
            op.execute(_POSTGRESQL.format(table=table))
        else:
            for verb in ("update", "delete"):
                op.execute(_SQLITE.format(table=table, verb=verb))
