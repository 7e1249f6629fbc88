"""The whole system over a NATS server with users and permissions: every service as its own user, in the test's loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from batchyard.batch_runner import app as batch_runner
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.billing.app import create_app
from batchyard.billing.settings import BillingSettings
from batchyard.cli.readiness import Readiness
from batchyard.common.declare import declare
from batchyard.common.messaging.permissions import BATCH_RUNNER, BILLING, FILE_STORE, GATEWAY, TOPOLOGY
from batchyard.common.settings import Settings
from batchyard.file_store import app as file_store
from batchyard.file_store.settings import FileStoreSettings
from batchyard.gateway import app as gateway
from batchyard.gateway.settings import GatewaySettings
from support.nats_users import GuardedNats
from support.services import running
from support.stack import MASTER_KEY


@dataclass(frozen=True, slots=True)
class GuardedSystem:
    """A system that is ready: its NATS server, its API over HTTP, and where its bytes are."""

    nats: GuardedNats
    http: httpx.AsyncClient
    object_store: str


@asynccontextmanager
async def guarded_system(
    server: GuardedNats, directory: Path, config: Path, **told: Any
) -> AsyncIterator[GuardedSystem]:
    """Declare the topology, start the four services, and wait until they are ready; `told` are settings of all."""
    common: dict[str, Any] = {"config": config, "config_poll_interval": 0.05, "work_ack_wait": 2.0}
    common |= {"object_store": f"file://{directory}/objects", **told}
    await declare(Settings(**common, **server.settings(TOPOLOGY)), asyncio.Event())
    port_file = directory / "port"
    async with AsyncExitStack() as exits:
        serves = (
            file_store.serve(FileStoreSettings(**common, **server.settings(FILE_STORE))),
            batch_runner.serve(RunnerSettings(**common, **server.settings(BATCH_RUNNER))),
            create_app(
                BillingSettings(
                    **common, **server.settings(BILLING), database_url=f"sqlite+aiosqlite:///{directory}/ledger.db"
                )
            ),
            gateway.serve(GatewaySettings(**common, **server.settings(GATEWAY), port=0, port_file=port_file)),
        )
        services = [await exits.enter_async_context(running(serve)) for serve in serves]
        http = await exits.enter_async_context(
            httpx.AsyncClient(headers={"authorization": f"Bearer {MASTER_KEY}"}, timeout=60, trust_env=False)
        )
        start = asyncio.create_task(_ready(port_file))
        await asyncio.wait({start, *services}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        for service in services:
            assert not service.done(), service.exception()
        http.base_url = httpx.URL(start.result())
        yield GuardedSystem(server, http, str(common["object_store"]))


async def _ready(port_file: Path) -> str:
    readiness = Readiness()
    url = f"http://127.0.0.1:{await readiness.port(port_file)}"
    await readiness.ready(url)
    return url
