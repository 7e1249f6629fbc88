"""A nats-server as `deploy/nats` has it: users with permissions and passwords, and connections as each of them."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client

from batchyard.cli.nats_users import PASSWORDS, write_users
from batchyard.common.messaging.permissions import inbox_prefix
from support.nats import running_nats

DEPLOY = Path(__file__).parents[2] / "deploy" / "nats"
_OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class GuardedNats:
    """A running server. `operator` is a user of the tests alone, who may do anything."""

    url: str
    directory: Path

    def password(self, user: str) -> str:
        return _OPERATOR if user == _OPERATOR else (self.directory / PASSWORDS / user).read_text()

    def settings(self, user: str) -> dict[str, Any]:
        """What a process is told that connects as `user`."""
        return {
            "nats_url": self.url,
            "nats_user": user,
            "nats_password": self.password(user),
            "declare_topology": False,
        }

    @property
    def violations(self) -> list[str]:
        """What the server has refused so far, from its log."""
        log = (self.directory / "nats.log").read_text()
        return [line for line in log.splitlines() if "Violation" in line]


@dataclass(slots=True)
class UserConnection:
    """A plain connection of one user. `denied` grows by a word of the server for each refusal."""

    client: Client
    denied: list[str] = field(default_factory=list)

    async def refuses_publish(self, subject: str, payload: bytes = b"{}") -> bool:
        """Whether the server refuses a message of this user's to `subject`."""
        before = len(self.denied)
        await self.client.publish(subject, payload, reply=self.client.new_inbox())
        await self._settle()
        return len(self.denied) > before

    async def refuses_subscribe(self, subject: str, queue: str = "") -> bool:
        """Whether the server refuses a subscription of this user's to `subject`."""
        before = len(self.denied)
        subscription = await self.client.subscribe(subject, queue=queue)
        await self._settle()
        refused = len(self.denied) > before
        if not refused:
            await subscription.unsubscribe()
        return refused

    async def _settle(self) -> None:
        """Wait until the server has seen everything: nats-py's first ping may overtake what it has yet to write."""
        await self.client.flush()
        await self.client.flush()


@contextmanager
def guarded_nats(directory: Path, tenants: Sequence[str] = (), options: Sequence[str] = ()) -> Iterator[GuardedNats]:
    """Start a server with the configuration of `deploy/nats`, users made for the test, and further `options`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_users(directory, tenants)
    config = (DEPLOY / "nats.conf").read_text()
    # The directory comes by the command line, which nats-server refuses beside one in the file.
    (directory / "nats.conf").write_text(config.replace('  store_dir: "/data"\n', ""))
    users = directory / "users.conf"
    operator = f'    {{ user: "{_OPERATOR}", password: {json.dumps(_OPERATOR)} }}\n'
    users.write_text(users.read_text().replace("  users: [\n", f"  users: [\n{operator}"))
    with running_nats(directory, options=("-c", str(directory / "nats.conf"), "-m", "-1", *options)) as url:
        yield GuardedNats(url, directory)


@asynccontextmanager
async def connected(server: GuardedNats, user: str) -> AsyncIterator[UserConnection]:
    """A connection as `user`, with that user's inbox."""
    denied: list[str] = []

    async def on_error(error: Exception) -> None:
        denied.append(str(error))

    client = await nats.connect(
        server.url,
        user=user,
        password=server.password(user),
        inbox_prefix=inbox_prefix(user),
        error_cb=on_error,
        allow_reconnect=False,
    )
    try:
        yield UserConnection(client, denied)
    finally:
        await client.close()
