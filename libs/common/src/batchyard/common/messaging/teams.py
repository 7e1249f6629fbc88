"""The directory of teams, for services that keep their limits: the gateway alone writes it.

Beside the teams lie the keys whose batches pause when their budget is spent; all other keys are the gateway's alone.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from batchyard.common.contracts.access import PausingKey, Team
from batchyard.common.messaging.connection import Connection
from batchyard.common.messaging.mirror import Mirror, mirroring
from batchyard.common.messaging.topology import TEAMS_BUCKET
from batchyard.common.subjects import encode_token

PAUSING = "pausing"
"""The first token of a pausing key's record, the second is the key's ID. A team's has one."""


class Teams:
    """What is known of each tenant. A tenant without a record, as the first one, has no limits."""

    def __init__(self, mirror: Mirror[Team]) -> None:
        self._mirror = mirror

    def get(self, team_id: str) -> Team | None:
        """The record of a tenant, as it was at most a moment ago; while NATS is away, as it was before."""
        return self._mirror.get(encode_token(team_id))


@asynccontextmanager
async def open_teams(connection: Connection) -> AsyncIterator[Teams]:
    """The directory, loaded, and kept current while the context is open.

    Raises:
        ServiceUnavailable: It could not be read.
    """
    async with mirroring(connection, TEAMS_BUCKET, Team) as mirror:
        yield Teams(mirror)


class PausingKeys:
    """The keys whose batches pause when their budget is spent, as they were at most a moment ago."""

    def __init__(self, mirror: Mirror[PausingKey]) -> None:
        self._mirror = mirror

    def get(self, key_id: str) -> PausingKey | None:
        return self._mirror.get(encode_token(key_id))

    def __iter__(self) -> Iterator[PausingKey]:
        return self._mirror.values()


@asynccontextmanager
async def open_pausing_keys(connection: Connection) -> AsyncIterator[PausingKeys]:
    """The keys, loaded, and kept current while the context is open.

    Raises:
        ServiceUnavailable: They could not be read.
    """
    async with mirroring(connection, TEAMS_BUCKET, PausingKey, under=PAUSING) as mirror:
        yield PausingKeys(mirror)
