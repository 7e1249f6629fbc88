"""The keys and teams that there are: read in memory at every request, written to NATS for every replica."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from pydantic import BaseModel

from batchyard.common.contracts.access import DEFAULT_TENANT, Key, Team
from batchyard.common.messaging.connection import Connection
from batchyard.common.messaging.mirror import Mirror, mirroring
from batchyard.common.messaging.records import Entry, Records
from batchyard.common.messaging.topology import KEYS_BUCKET, TEAMS_BUCKET
from batchyard.common.subjects import encode_token

M = TypeVar("M", bound=BaseModel)

_LONGEST_NAME = 128


class Book(Generic[M]):
    """One bucket: what is written through it is read from it at once, and by other replicas a moment later.

    Writing raises ServiceUnavailable when NATS does not answer; whether it took place is then unknown.
    """

    def __init__(self, mirror: Mirror[M], records: Records[M]) -> None:
        self._mirror = mirror
        self._records = records

    def get(self, name: str) -> M | None:
        """The record called `name`."""
        return self._mirror.get(encode_token(name)) if 0 < len(name) <= _LONGEST_NAME else None

    async def look_up(self, name: str) -> M | None:
        """The record called `name`, asked for in NATS where this process has not heard of it: another gateway may have
        made it just now. For who administrates alone: whoever guesses names would be no work for us but for NATS."""
        known = self.get(name)
        if known is not None or not 0 < len(name) <= _LONGEST_NAME:
            return known
        entry = await self._records.get(encode_token(name))
        if entry is None:
            return None
        self._mirror.learn(entry)
        return entry.value

    def find(self, name: str) -> M | None:
        """The record that has `name` among its other names."""
        return self._mirror.find(name)

    def __iter__(self) -> Iterator[M]:
        return self._mirror.values()

    async def create(self, name: str, value: M) -> None:
        """Add a record. Raises RevisionConflict when there is one of that name."""
        key = encode_token(name)
        self._mirror.learn(Entry(key, value, await self._records.create(key, value)))

    async def change(self, name: str, change: Callable[[M], M]) -> M | None:
        """Apply a pure function to a record, as it is in NATS now; None when there is none. Raises what it raises."""
        entry = await self._records.change(encode_token(name), change)
        if entry is None:
            return None
        self._mirror.learn(entry)
        return entry.value

    async def remove(self, name: str) -> None:
        """Remove a record, if there is one."""
        key = encode_token(name)
        await self._records.delete(key)
        self._mirror.forget(key)


class Directory:
    """All keys by their ID and by the digests of their secrets, and all teams by their ID."""

    def __init__(self, keys: Book[Key], teams: Book[Team]) -> None:
        self.keys = keys
        self.teams = teams

    def has_team(self, team_id: str) -> bool:
        """Whether a key may belong to a team. The first one needs no record."""
        return team_id == DEFAULT_TENANT or self.teams.get(team_id) is not None

    async def look_up_team(self, team_id: str) -> bool:
        """The same, for who administrates: asked in NATS as well."""
        return team_id == DEFAULT_TENANT or await self.teams.look_up(team_id) is not None

    def newest_keys(self, team_id: str | None) -> list[Key]:
        """The keys of a team, or of all, the newest first."""
        found = (key for key in self.keys if team_id is None or key.team_id == team_id)
        return sorted(found, key=lambda key: (key.created_at, key.key_id), reverse=True)


@asynccontextmanager
async def open_directory(connection: Connection) -> AsyncIterator[Directory]:
    """The directory, loaded, and kept current while the context is open.

    Raises:
        ServiceUnavailable: It could not be read.
    """
    js = connection.jetstream(timeout=10)
    async with (
        mirroring(connection, KEYS_BUCKET, Key, _digests) as keys,
        mirroring(connection, TEAMS_BUCKET, Team) as teams,
    ):
        yield Directory(
            Book(keys, Records(js, KEYS_BUCKET, Key)),
            Book(teams, Records(js, TEAMS_BUCKET, Team)),
        )


def _digests(key: Key) -> tuple[str, ...]:
    return tuple(secret.digest for secret in key.secrets)
