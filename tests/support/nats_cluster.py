"""Three nats-servers that keep one JetStream between them, each a process that can be killed and started again."""

import asyncio
import json
import secrets
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.aio.client import Client
from nats.errors import Error
from nats.js.errors import APIError

from support.nats import nats_server_binary

_SETTLED_WITHIN = 90.0
_POLL = 0.05


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens now, no two alike."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class NatsNode:
    """One server of a cluster. Its data outlives its process."""

    def __init__(self, name: str, directory: Path, port: int, monitor: int) -> None:
        self.name = name
        self.directory = directory
        self.url = f"nats://127.0.0.1:{port}"
        self.monitor = f"http://127.0.0.1:{monitor}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None
        with (self.directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server_binary(), "-c", str(self.directory / "nats.conf")], stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send its process a signal that ends it, and return once it has."""
        self.send(number)
        assert self._process is not None
        self._process.wait(20)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.end()

    async def healthy(self) -> None:
        """Wait until the server says that it has caught up with the others: what an orchestrator's probe waits for."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http, asyncio.timeout(_SETTLED_WITHIN):
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(f"{self.monitor}/healthz")).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(_POLL)


class NatsCluster:
    """Servers that know each other. Clients need a token, and may be given any of the URLs."""

    def __init__(self, directory: Path, size: int = 3) -> None:
        self.token = secrets.token_urlsafe(16)
        ports = free_ports(3 * size)
        self._routes = ports[size : 2 * size]
        self.nodes: list[NatsNode] = []
        for index in range(size):
            name = f"n{index + 1}"
            node = NatsNode(name, directory / name, ports[index], ports[2 * size + index])
            node.directory.mkdir(parents=True, exist_ok=True)
            self.nodes.append(node)
        self.configure()

    def configure(self, jetstream: str = "", known: int | None = None) -> None:
        """Write the servers' configuration, with further settings of `jetstream`, for their next start.

        Each is told the addresses of the first `known` servers; by default of all.
        """
        routes = json.dumps([f"nats-route://127.0.0.1:{port}" for port in self._routes[:known]])
        for node, route in zip(self.nodes, self._routes, strict=True):
            lines = [
                f'server_name: "{node.name}"',
                f'listen: "{node.url.removeprefix("nats://")}"',
                f'http: "{node.monitor.removeprefix("http://")}"',
                f'authorization {{ token: "{self.token}" }}',
                "jetstream {",
                f"  store_dir: {json.dumps(str(node.directory))}, sync_interval: always",
                f"  {jetstream}",
                "}",
            ]
            if len(self.nodes) > 1:
                lines.append(f'cluster {{ name: "yard", listen: "127.0.0.1:{route}", routes: {routes} }}')
            (node.directory / "nats.conf").write_text("\n".join(lines))

    @property
    def url(self) -> str:
        """As BATCHYARD_NATS_URL takes it."""
        return ",".join(node.url for node in self.nodes)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        connection = await nats.connect([node.url for node in self.nodes], token=self.token, error_cb=_ignored)
        try:
            yield connection
        finally:
            await connection.close()

    async def leader(self, stream: str, *, is_leader: bool = True) -> NatsNode:
        """The node that leads a stream, or one that follows."""
        async with self.connected() as connection, asyncio.timeout(_SETTLED_WITHIN):
            while True:
                leader = (await _clusters(connection)).get(stream, {}).get("leader")
                if leader:
                    return next(node for node in self.nodes if (node.name == leader) is is_leader)
                await asyncio.sleep(_POLL)

    async def healed(self) -> None:
        """Wait until every stream has as many copies as there are nodes, all of them up to date."""
        async with self.connected() as connection:
            told: dict[str, Any] = {}
            try:
                async with asyncio.timeout(_SETTLED_WITHIN):
                    while True:
                        told = await _clusters(connection)
                        if told and all(_is_whole(one, len(self.nodes)) for one in told.values()):
                            return
                        await asyncio.sleep(_POLL)
            except TimeoutError:
                raise AssertionError(f"not healed: {told}") from None


@asynccontextmanager
async def running_cluster(directory: Path, size: int = 3, jetstream: str = "") -> AsyncIterator[NatsCluster]:
    """A cluster whose JetStream answers; of one server, a server that stands alone."""
    cluster = NatsCluster(directory, size)
    cluster.configure(jetstream)
    try:
        for node in cluster.nodes:
            node.start()
        for node in cluster.nodes:
            await node.healthy()
        async with cluster.connected() as connection, asyncio.timeout(_SETTLED_WITHIN):
            while True:
                with suppress(Error):
                    await connection.jetstream(timeout=2).account_info()
                    break
                await asyncio.sleep(_POLL)
        yield cluster
    finally:
        for node in cluster.nodes:
            node.close()


async def _clusters(connection: Client) -> dict[str, Any]:
    """What the server tells of each stream's copies, by stream; nothing while nobody leads."""
    try:
        reply = await connection.request("$JS.API.STREAM.LIST", b"", timeout=5)
    except (Error, APIError):
        return {}
    answer = json.loads(reply.data)
    if answer.get("error") or answer.get("missing"):
        return {}
    return {stream["config"]["name"]: stream["cluster"] for stream in answer.get("streams") or []}


def _is_whole(told: Any, size: int) -> bool:
    copies = told.get("replicas") or []
    return (
        bool(told.get("leader"))
        and len(copies) == size - 1
        and all(copy["current"] and not copy.get("offline") for copy in copies)
    )


async def _ignored(_error: Exception) -> None:
    """Servers come and go."""
