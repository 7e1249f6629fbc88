"""Who has the master key: makes teams and keys while all is being struck, and changes them in the middle."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from batchyard.vllm_sim.testing import RunningSim
from soak.chaos import Chaos
from soak.client import Client
from soak.configuration import write_config
from soak.diary import Deed, Diary, Refused
from soak.subscribing import subscribe
from soak.teams import DEFAULT, GRACE, LATER_PRICES, OPEN, Body, PlannedTeam

LEAVER = "leaver"
"""The alias of the key that is revoked, of the team `open`."""


@dataclass
class Administrator:
    """Does what the teams' plan says.

    Attributes:
        clients: A client of each team, with its key, as soon as there is one.
        receiver: Where webhooks are to be sent.
        leaver: One with the key that is revoked.
        rotated: One that goes on with the secret that was rotated.
        ids: The IDs of the keys, by alias.
    """

    master: Client
    teams: tuple[PlannedTeam, ...]
    kills: int
    chaos: Chaos
    diary: Diary
    config: Path
    sims: list[RunningSim]
    receiver: str
    clients: dict[str, Client] = field(default_factory=dict)
    leaver: Client | None = None
    rotated: Client | None = None
    ids: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Make everything, then change it, each thing after so many strikes."""
        self.clients[DEFAULT] = self.master
        for owner in (None, DEFAULT):
            self.diary.endpoints.append(await subscribe(self.master, owner, self.receiver))
        for team in self.teams:
            await self._make(team)
        self.leaver = await self._key(LEAVER, {"team_id": OPEN})
        for after, what, act in sorted(self._changes(), key=lambda change: change[0]):
            await self.chaos.until(after)
            await self._do(what, act)

    def _changes(self) -> list[tuple[int, str, Callable[[], Awaitable[None]]]]:
        changes: list[tuple[int, str, Callable[[], Awaitable[None]]]] = [
            (self.kills * 3 // 10, "rotated", self._rotate),
            (self.kills * 2 // 5, "revoked", self._revoke),
            (self.kills // 2, "prices", self._raise_prices),
        ]
        for team in self.teams:
            for number, (after, body) in enumerate(team.updates):
                changes.append((after, f"update {team.name} {number}", self._updating(team.name, body)))
        return changes

    async def _do(self, what: str, act: Callable[[], Awaitable[None]]) -> None:
        began = time.time()
        await act()
        self.diary.deeds.append(Deed(what, began, time.time()))

    async def _make(self, team: PlannedTeam) -> None:
        try:
            await self.master.request("POST", "/team/new", json={"team_id": team.name, **team.team})
        except Refused as refused:
            if refused.status != httpx.codes.CONFLICT:  # an answer was lost, and the team is there
                raise
        client = await self._key(team.name, {"team_id": team.name, **team.key})
        self.diary.endpoints.append(await subscribe(client, team.name, self.receiver))
        self.clients[team.name] = client

    async def _key(self, alias: str, body: Body) -> Client:
        """A client with a new key. One that was made before its answer was lost gets another secret."""
        try:
            made = await self.master.json("POST", "/key/generate", json={"key_alias": alias, **body})
        except Refused as refused:
            if refused.status != httpx.codes.CONFLICT:
                raise
            found = await self.master.json("GET", "/key/list", params={"key_alias": alias})
            made = await self.master.json("POST", "/key/regenerate", json={"key": found["keys"][0]})
        self.ids[alias] = made["token"]
        return await self._client_with(made["key"])

    async def _rotate(self) -> None:
        body = {"key": self.ids[OPEN], "grace_period": GRACE}
        client = self.clients[OPEN]
        made: Any = await self.master.json("POST", "/key/regenerate", json=body)
        rotated = await self._client_with(made["key"])
        self.rotated, client.secret = self._client(client.secret), rotated.secret
        self.diary.old_ends = datetime.fromisoformat(made["old_secret_expires"]).timestamp() + 1  # told in seconds

    async def _revoke(self) -> None:
        try:
            await self.master.request("POST", "/key/delete", json={"keys": [self.ids[LEAVER]]})
        except Refused as refused:
            if refused.status != httpx.codes.NOT_FOUND:  # an answer was lost, and the key is gone
                raise

    async def _raise_prices(self) -> None:
        write_config(self.config, self.sims, LATER_PRICES)

    def _updating(self, team: str, body: Body) -> Callable[[], Awaitable[None]]:
        async def update() -> None:
            await self.master.request("POST", "/team/update", json={"team_id": team, **body})

        return update

    async def _client_with(self, secret: str) -> Client:
        """A client with a new secret, once every gateway knows it."""
        client = self._client(secret)
        for url in client.urls:
            alone = Client(client.http, (url,), secret)
            while True:
                try:
                    await alone.request("GET", "/v1/models")
                    break
                except Refused as refused:
                    if refused.status != httpx.codes.UNAUTHORIZED:
                        raise
                    await asyncio.sleep(0.1)
        return client

    def _client(self, secret: str) -> Client:
        return Client(self.master.http, self.master.urls, secret)
