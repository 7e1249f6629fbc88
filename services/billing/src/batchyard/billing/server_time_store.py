"""What batches of each model have used lately, read from the sums that the ledger keeps by day."""

from collections.abc import Collection

from sqlalchemy import BigInteger, func, literal, select

from batchyard.billing.database import Database
from batchyard.billing.server_time import Measured
from batchyard.billing.spend_rows import DAY, MODEL_CHARACTERS
from batchyard.billing.tables import spend_by_day as table

_DAYS = 7


class ServerTimeStore:
    """Reads the sums of the last seven days, today's among them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def measured(self, models: Collection[str], now: float) -> dict[str, Measured]:
        """What all tenants' batches of these models used; none for one without time. Raises ServiceUnavailable."""
        if not models:
            return {}
        named = {model[:MODEL_CHARACTERS]: model for model in models}
        amounts = (table.c.input_tokens, table.c.output_tokens, table.c.busy_microseconds)
        query = (
            select(table.c.model, *(func.sum(amount).label(amount.name) for amount in amounts))
            .where(
                table.c.model.in_(named),
                table.c.day > literal(int(now) // DAY - _DAYS, BigInteger()),
                # Servers that do not tell their time, and entries from before there was one, would make it seem short.
                table.c.busy_microseconds > 0,
            )
            .group_by(table.c.model)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {named[model]: Measured(*map(int, sums)) for model, *sums in rows}
