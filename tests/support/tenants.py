"""Two teams with a key of every kind, in the real services, and what the first of them owns."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from unit.gateway.rig import KEY, running_gateway

from batchyard.billing.app import create_app as billing_app
from batchyard.billing.settings import BillingSettings
from batchyard.common.config import load_config
from batchyard.common.ids import ModelKind, decode_id, encode_id, new_raw_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.gateway.settings import GatewaySettings
from batchyard.vllm_sim.settings import DEFAULT_MODEL, SimSettings
from batchyard.vllm_sim.testing import running_sim
from support.receiver import LOOPBACK
from support.services import file_store_and_runner, running

MODEL = "served"
STUCK = "stuck"
RED, BLUE = "red", "blue"
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")

OWNER, MATE, OTHER, ADMIN, ADMIN_AS_RED = "owner", "team mate", "other team", "admin", "admin for the team"
REVOKED, EXPIRED, BLOCKED, NONE = "revoked", "expired", "blocked", "none"
STRANGERS = (OTHER, ADMIN)
UNKNOWN = (REVOKED, EXPIRED, BLOCKED, NONE)

Ids = dict[str, str]


def line(custom_id: str, **body: Any) -> bytes:
    members = {"messages": [{"role": "user", "content": "hi"}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": members}).encode()


@dataclass
class Tenants:
    """The running system. `as_` sends a request as one of the callers; `ended` is a batch of red's."""

    http: httpx.AsyncClient
    commands: CommandClient
    objects: ObjectStore
    sim_url: str
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    ended: Any = None

    async def as_(self, caller: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self.headers[caller] | options.pop("headers", {})
        return await self.http.request(method, path, headers=headers, **options)

    async def done(self, caller: str, method: str, path: str, **options: Any) -> Any:
        """The answer to a request that has to succeed."""
        response = await self.as_(caller, method, path, **options)
        assert response.status_code == 200, (caller, method, path, response.text)
        return response.json()

    async def file(self, caller: str = OWNER, model: str = MODEL, *lines: bytes) -> str:
        """A new file for a batch, whose ID carries its model."""
        content = b"\n".join(lines or (line("a"),))
        form = {"data": {"purpose": "batch", "model": model}, "files": {"file": ("in.jsonl", content)}}
        return str((await self.done(caller, "POST", "/v1/files", **form))["id"])

    async def batch(self, file_id: str, caller: str = OWNER) -> Any:
        wish = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
        return await self.done(caller, "POST", "/v1/batches", json=wish)

    async def fresh(self, *, only_hook: bool = False) -> Ids:
        """Objects of red's that a test may use up; the ended batch is always the same."""
        if only_hook:
            return {"webhook_endpoint_id": await self.webhook_endpoint()}
        upload = await self.announce()
        part = await self.done(OWNER, "POST", f"/v1/uploads/{upload}/parts", files={"data": ("upload", b"abcd")})
        return {
            "file_id": await self.file(),
            "upload_id": upload,
            "part_id": part["id"],
            "batch_id": self.ended["id"],
            "stuck_id": (await self.batch(await self.file(OWNER, STUCK)))["id"],
            "webhook_endpoint_id": await self.webhook_endpoint(),
        }

    async def webhook_endpoint(self) -> str:
        """The one that answers, or a new one if there is none: a team has few."""
        for found in (await self.done(OWNER, "GET", "/v1/webhook_endpoints"))["data"]:
            if found["url"] == self.sim_url:
                return str(found["id"])
        wish = {"name": "n", "url": self.sim_url, "event_types": ["batch.failed"]}
        return str((await self.done(OWNER, "POST", "/v1/webhook_endpoints", json=wish))["id"])

    async def announce(self) -> str:
        wish = {"bytes": 4, "filename": "notes.txt", "mime_type": "text/plain", "purpose": "user_data"}
        return str((await self.done(OWNER, "POST", "/v1/uploads", json=wish))["id"])

    async def until(self, look: Callable[[], Any]) -> Any:
        """What `look` finds, once it finds something."""
        async with asyncio.timeout(60):
            while not (found := await look()):
                await asyncio.sleep(0.02)
        return found


def ghosts(ids: Ids) -> Ids:
    """IDs of the same form that nothing has."""
    kinds: dict[str, ModelKind] = {"file_id": "file", "batch_id": "batch", "stuck_id": "batch"}
    found = {f"{kind}_id": new_raw_id(kind) for kind in ("upload", "part", "webhook_endpoint") if f"{kind}_id" in ids}
    for name, kind in ((name, kind) for name, kind in kinds.items() if name in ids):
        found[name] = encode_id(kind, new_raw_id(kind), decode_id(ids[name]).model)
    return found


@asynccontextmanager
async def open_tenants(settings: Settings, messaging: Messaging, directory: Path) -> AsyncIterator[Tenants]:
    """Start everything, and make what red owns."""
    async with AsyncExitStack() as exits:
        sim = await exits.enter_async_context(running_sim(SimSettings(port=0)))
        config = directory / "config.yaml"
        config.write_text(_config(sim.url))
        common = settings.model_dump(exclude_unset=True) | {"config": config}
        await exits.enter_async_context(file_store_and_runner(settings, config=config, cancel_grace=0))
        database = f"sqlite:///{directory / 'ledger.db'}"
        billing = BillingSettings(**common, database_url=database)
        _ = await exits.enter_async_context(running(billing_app(billing)))
        gateway = await exits.enter_async_context(
            running_gateway(
                GatewaySettings(**common, shutdown_timeout=2, webhook_allowed_networks=LOOPBACK),
                load_config(config, {}),
            )
        )
        http = await exits.enter_async_context(httpx.AsyncClient(base_url=gateway.url, timeout=60, trust_env=False))
        tenants = Tenants(http, CommandClient(messaging.connection), gateway.objects, sim.url)
        await tenants.until(lambda: _ready(http))
        await _make_keys(tenants)
        await _run_a_batch(tenants)
        yield tenants


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/health/readiness")).status_code == 200


async def _make_keys(tenants: Tenants) -> None:
    master = {"authorization": f"Bearer {KEY}"}
    tenants.headers = {NONE: {}, ADMIN: master, ADMIN_AS_RED: master | {"x-batchyard-team": RED}}
    for team in (RED, BLUE):
        await tenants.done(ADMIN, "POST", "/team/new", json={"team_id": team})
    for caller in (OWNER, MATE, OTHER, REVOKED, EXPIRED, BLOCKED):
        wish = {"team_id": BLUE if caller == OTHER else RED, "duration": "1s" if caller == EXPIRED else None}
        made = await tenants.done(ADMIN, "POST", "/key/generate", json=wish)
        tenants.headers[caller] = {"authorization": f"Bearer {made['key']}"}
        tenants.tokens[caller] = made["token"]
    await tenants.done(ADMIN, "POST", "/key/delete", json={"keys": [tenants.tokens[REVOKED]]})
    await tenants.done(ADMIN, "POST", "/key/block", json={"key": tenants.tokens[BLOCKED]})

    async def has_expired() -> bool:
        return (await tenants.as_(EXPIRED, "GET", "/v1/files")).status_code == 401

    await tenants.until(has_expired)


async def _run_a_batch(tenants: Tenants) -> None:
    """A batch of red's with an answer, an error, and an entry in the ledger."""
    batch = await tenants.batch(await tenants.file(OWNER, MODEL, line("a"), line("b", max_tokens=-1)))

    async def has_ended() -> Any:
        found = await tenants.done(OWNER, "GET", f"/v1/batches/{batch['id']}")
        return found if found["status"] in ENDED else None

    async def is_billed() -> Any:
        return (await tenants.done(OWNER, "GET", "/spend/logs"))["data"]

    tenants.ended = await tenants.until(has_ended)
    assert tenants.ended["output_file_id"]
    assert tenants.ended["error_file_id"]
    await tenants.until(is_billed)


def _config(api_base: str) -> str:
    entries = "".join(
        f"  - model_name: {name}\n    litellm_params: {{model: 'hosted_vllm/{DEFAULT_MODEL}', api_base: '{base}', "
        "input_cost_per_token: 0.001, output_cost_per_token: 0.002}\n"
        for name, base in ((MODEL, api_base), (STUCK, "http://127.0.0.1:9"))
    )
    return f"model_list:\n{entries}general_settings:\n  master_key: {KEY}\n"
