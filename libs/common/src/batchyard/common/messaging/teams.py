"""The directory of teams, for services that keep their limits: the gateway alone writes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client

from batchyard.common.contracts.access import Team
from batchyard.common.messaging.mirror import Mirror, mirroring
from batchyard.common.messaging.topology import TEAMS_BUCKET
from batchyard.common.subjects import encode_token


class Teams:
    """What is known of each tenant. A tenant without a record, as the first one, has no limits."""

    def __init__(self, mirror: Mirror[Team]) -> None:
        self._mirror = mirror

    def get(self, team_id: str) -> Team | None:
        """The record of a tenant, as it was at most a moment ago; while NATS is away, as it was before."""
        return self._mirror.get(encode_token(team_id))


@asynccontextmanager
async def open_teams(connection: Client) -> AsyncIterator[Teams]:
    """The directory, loaded, and kept current while the context is open.

    Raises:
        ServiceUnavailable: It could not be read.
    """
    async with mirroring(connection, TEAMS_BUCKET, Team) as mirror:
        yield Teams(mirror)
