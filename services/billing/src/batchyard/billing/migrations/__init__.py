"""The ledger's schema, step by step (Alembic), shipped with the service and applied when it starts."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest step, in the transaction that `connection` is in.

    Raises:
        alembic.util.CommandError: The schema was made by a newer version of the service.
    """
    config = Config()
    # Alembic reads a `%` in an option as the start of an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
