"""What keys and teams have spent, as far as billing answers: who asks about them gets the rest in any case."""

from collections.abc import Sequence
from decimal import Decimal

from batchyard.common.contracts.access import ALL_TENANTS, Key, Team
from batchyard.common.contracts.budgets import SPENT_MAX, GetSpent, SpentScope
from batchyard.common.errors import ApiError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient

_SECONDS = 2.0
_log = get_logger(__name__)


async def spent_by(commands: CommandClient, those: Sequence[Key | Team]) -> list[Decimal | None]:
    """What each has spent in the present period of its budget; None for all while billing does not answer in time."""
    scopes = tuple(_scope(one) for one in those)
    found: list[Decimal | None] = []
    try:
        for first in range(0, len(scopes), SPENT_MAX):
            command = GetSpent(scopes=scopes[first : first + SPENT_MAX])
            found += (await commands.call(ALL_TENANTS, command, _SECONDS)).spent
    except ApiError as error:
        _log.warning("spend.unknown", reason=str(error))
        return [None] * len(scopes)
    return found


def _scope(one: Key | Team) -> SpentScope:
    key_id = one.key_id if isinstance(one, Key) else None
    return SpentScope(team=one.team_id, key_id=key_id, budget_duration=one.limits.budget_duration)
