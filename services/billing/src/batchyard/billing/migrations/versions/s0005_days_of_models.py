"""An index for what a model's batches have taken lately: it is asked for with every batch that is priced by time."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("ix_spend_by_day_model_day", "spend_by_day", ["model", "day"])


def downgrade() -> None:
    op.drop_index("ix_spend_by_day_model_day", "spend_by_day")
