"""What the tests of batch-runner stand on: a simulated vLLM over HTTP, a local object store, the fleet in between."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchyard.batch_runner.attempt import Attempts
from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.upstream import HttpUpstream
from batchyard.common.clock import SystemClock
from batchyard.common.config import Config, Deployment
from batchyard.common.contracts.batches import Batch, CreateBatch
from batchyard.common.contracts.health import CheckBatchRunner, CheckFileStore
from batchyard.common.ids import decode_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import BATCHES_BUCKET
from batchyard.common.objects import LocalObjectStore, ObjectStore, open_object_store
from batchyard.common.operations import Operations, open_operations
from batchyard.common.operations_port import listening
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim
from support.services import Caller, file_store_and_runner

MODEL = "my-vllm-model"
ENDPOINT = "/v1/chat/completions"


@dataclass
class Bench:
    """A fleet of simulators, of which `sim` is the first, and the means to send lines to it."""

    sims: list[RunningSim]
    pool: Pool
    attempts: Attempts
    settings: RunnerSettings
    upstream: HttpUpstream

    @property
    def sim(self) -> RunningSim:
        return self.sims[0]


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


@pytest.fixture
async def open_bench() -> AsyncIterator[Callable[..., object]]:
    """Opens a bench: `await open_bench(sim=SimSettings(...), servers=2, request_timeout=…)`."""
    async with AsyncExitStack() as stack:

        async def opened(sim: SimSettings | None = None, servers: int = 1, **changes: object) -> Bench:
            defaults = {"retry_base": 0.01, "retry_cap": 0.05, "probe_interval": 0.05, "request_timeout": 5.0}
            settings = RunnerSettings(**{**defaults, **changes})  # type: ignore[arg-type]
            sims = [await stack.enter_async_context(running_sim(sim or SimSettings(port=0))) for _ in range(servers)]
            config = Config(
                deployments=tuple(
                    Deployment(id=f"d{index or ''}", pool=MODEL, model=MODEL, base_url=running.url)
                    for index, running in enumerate(sims)
                )
            )
            upstream = await stack.enter_async_context(
                HttpUpstream(settings.request_timeout, settings.max_response_bytes)
            )
            clock = SystemClock()
            fleet = Fleet(config, settings, upstream, clock)
            stack.push_async_callback(fleet.close)
            attempts = Attempts(upstream, settings.retry_policy, clock, random.Random(1))
            return Bench(sims, fleet.pools[MODEL], attempts, settings, upstream)

        yield opened


def chat_line(custom_id: str, prompt: str, **body: object) -> bytes:
    """A request line for the chat endpoint."""
    members = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **body}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": members}
    return json.dumps(line).encode()


class Yard:
    """Everything a test of a batch's life needs."""

    def __init__(self, sim: RunningSim, caller: Caller, objects: ObjectStore, messaging: Messaging) -> None:
        self.sim = sim
        self.call = caller
        self.objects = objects
        self.messaging = messaging

    async def batch(self, *lines: bytes, model: str | None = MODEL, **options: Any) -> Batch:
        file = await self.call.upload(b"\n".join(lines) + b"\n", model=model)
        batch: Batch = await self.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, **options))
        return batch

    async def working_objects(self) -> list[str]:
        return [info.key async for info in self.objects.list("batches/")]


@pytest.fixture
async def open_yard(settings: Settings, messaging: Messaging, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Opens yards: `await open_yard(sim=SimSettings(...), shard_lines=5)`."""
    async with AsyncExitStack() as stack:

        async def opened(sim: SimSettings | None = None, *, output_price: float | None = None, **runner: Any) -> Yard:
            sim = sim or SimSettings(port=0)
            running = await stack.enter_async_context(running_sim(sim))
            config = tmp_path / "config.yaml"
            entries = [
                f"  - model_name: {model}\n    litellm_params:\n"
                f"      model: hosted_vllm/{model}\n      api_base: {running.url}\n"
                for model in sim.models
            ]
            if output_price is not None:
                entries = [f"{entry}      output_cost_per_token: {output_price}\n" for entry in entries]
            config.write_text("model_list:\n" + "".join(entries))
            defaults = {"config": config, "shard_lines": 10, "retry_base": 0.01, "cancel_grace": 0.1}
            await stack.enter_async_context(file_store_and_runner(settings, **{**defaults, **runner}))
            objects = open_object_store(settings.object_store)
            stack.push_async_callback(objects.close)
            caller = Caller(CommandClient(messaging.connection), objects)
            await caller.ready(CheckFileStore(), CheckBatchRunner())
            return Yard(running, caller, objects, messaging)

        yield opened


def lines(count: int, suffix: str = "") -> list[bytes]:
    return [chat_line(f"r{index}", f"question {index}{suffix}") for index in range(count)]


async def expire_now(yard: Yard, batch: Batch) -> None:
    """Bring the deadline forward, as the passing of time would."""
    records = Records(yard.messaging.js, BATCHES_BUCKET, BatchRecord)
    key = record_key(yard.call.tenant, decode_id(batch.id).raw)
    await records.change(key, lambda record: record.model_copy(update={"expires_at": record.created_at}))


@dataclass
class Office:
    """File-store and batch-runner before a fleet that never answers: batches are made and planned, and wait."""

    call: Caller
    objects: ObjectStore
    messaging: Messaging

    def caller(self, tenant: str) -> Caller:
        return Caller(CommandClient(self.messaging.connection), self.objects, tenant)

    async def keys(self) -> list[str]:
        """What lies in the object store for files."""
        return sorted([info.key async for info in self.objects.list("files/")])


@pytest.fixture
async def open_office(settings: Settings, messaging: Messaging, tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Opens an office: `await open_office(validation_slots=1)`."""
    async with AsyncExitStack() as stack:

        async def opened(**runner: object) -> Office:
            config = tmp_path / "config.yaml"
            config.write_text(
                f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n"
                f"      model: hosted_vllm/{MODEL}\n      api_base: http://127.0.0.1:9\n"
            )
            defaults = {"config": config, "shutdown_grace": 0, "cancel_grace": 0}
            await stack.enter_async_context(file_store_and_runner(settings, **{**defaults, **runner}))
            objects = open_object_store(settings.object_store)
            stack.push_async_callback(objects.close)
            caller = Caller(CommandClient(messaging.connection), objects)
            await caller.ready(CheckFileStore(), CheckBatchRunner())
            return Office(caller, objects, messaging)

        yield opened


@pytest.fixture
async def office(open_office: Callable[..., object]) -> Office:
    opened: Office = await open_office()  # type: ignore[misc]
    return opened


Look = Callable[[], Awaitable[dict[str, float]]]


@pytest.fixture
async def look() -> AsyncIterator[Look]:
    """Scrapes: values by series, without the labels that name the one deployment there is."""
    operations = Operations("batch-runner", asyncio.Event())
    token = open_operations.set(operations)
    async with (
        listening(operations, "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):

        async def looked() -> dict[str, float]:
            found = {}
            for family in text_string_to_metric_families((await http.get("/metrics")).text):
                for sample in family.samples:
                    if family.name.startswith("batchyard_"):
                        assert sample.labels.pop("pool", MODEL) == MODEL
                        sample.labels.pop("deployment", None)
                        found[" ".join((sample.name.removeprefix("batchyard_"), *sample.labels.values()))] = (
                            sample.value
                        )
            return found

        yield looked
    open_operations.reset(token)
