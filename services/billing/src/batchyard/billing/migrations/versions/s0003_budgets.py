"""Budgets: what is set aside for batches that have not ended, the limits of keys, and what is to be told of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "budget_reservations",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("waits", sa.BigInteger(), nullable=False),
        sa.Column("reserved_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "batch_id", name="pk_budget_reservations"),
    )
    op.create_table(
        "budget_keys",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key_id", name="pk_budget_keys"),
    )
    op.create_table(
        "budget_alerts",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("period_start", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.Column("told_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant", "scope", "period_start", name="pk_budget_alerts"),
    )
    # What a budget's spending is summed from, without a look at the entries themselves.
    op.create_index(
        "ix_ledger_entries_tenant_currency_finished_at_key_id_cost",
        "ledger_entries",
        ["tenant", "currency", "finished_at", "key_id", "cost"],
    )


def downgrade() -> None:
    op.drop_index("ix_ledger_entries_tenant_currency_finished_at_key_id_cost", "ledger_entries")
    for table in ("budget_alerts", "budget_keys", "budget_reservations"):
        op.drop_table(table)
