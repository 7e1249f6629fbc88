"""The ledger: one entry per batch that executed.

The column types are written out as the database has them, so that this step stays what it was when the code moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("public_batch_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("key_alias", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("requests_total", sa.BigInteger(), nullable=False),
        sa.Column("requests_completed", sa.BigInteger(), nullable=False),
        sa.Column("requests_failed", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("input_price", sa.Text()),
        sa.Column("cached_price", sa.Text()),
        sa.Column("output_price", sa.Text()),
        sa.Column("discount", sa.Text(), nullable=False),
        sa.Column("batch_created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.JSON()),
        sa.Column("usage_by_deployment", sa.JSON(), nullable=False),
        sa.Column("prices", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_id", name="pk_ledger_entries"),
    )
    op.create_index(
        "ix_ledger_entries_tenant_finished_at_batch_id", "ledger_entries", ["tenant", "finished_at", "batch_id"]
    )


def downgrade() -> None:
    op.drop_table("ledger_entries")
