"""The client for internal services, as a tenant's user of a NATS server with permissions, before a real system."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from batchyard.batch_runner import app as batch_runner
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.common import subjects
from batchyard.common.client import Client, ClientSettings, connect
from batchyard.common.contracts.batches import Batch, BatchStatus
from batchyard.common.contracts.events import BatchProgress
from batchyard.common.errors import (
    AuthenticationFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from batchyard.common.messaging.permissions import tenant_user_name
from batchyard.file_store import app as file_store
from batchyard.file_store.settings import FileStoreSettings
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim
from support.guarded_system import guarded_system
from support.nats import running_nats
from support.nats_users import GuardedNats, connected, guarded_nats
from support.s3 import S3Server, start_s3_server
from support.services import running
from support.stack import MODEL, config_for
from support.systems import expected_answer, request_line

TENANT = "reports/é"
ENDPOINT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedNats]:
    with guarded_nats(tmp_path_factory.mktemp("nats"), (TENANT,)) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@dataclass
class Yard:
    """A system, a client of it, and what the client was told."""

    sim: RunningSim
    client: Client
    settings: ClientSettings


@asynccontextmanager
async def yard(server: GuardedNats, directory: Path, s3: S3Server | None) -> AsyncIterator[Yard]:
    """With `s3` the client has no way to the bytes but URLs."""
    told: dict[str, Any] = {}
    if s3 is not None:
        told["object_store"] = f"s3://test-{uuid4().hex}?endpoint={s3.endpoint}&create_bucket=true"
        told |= {"object_store_access_key": s3.access_key, "object_store_secret_key": SecretStr(s3.secret_key)}
    user = tenant_user_name(TENANT)
    settings = ClientSettings(
        nats_url=server.url,
        nats_user=user,
        nats_password=SecretStr(server.password(user)),
        tenant=TENANT,
        object_store=None if s3 else f"file://{directory}/objects",
    )
    async with running_sim(SimSettings()) as sim:
        config = config_for(sim.url, directory / "config.yaml")
        async with guarded_system(server, directory, config, **told), connect(settings) as client:
            yield Yard(sim, client, settings)


def prompts(count: int, **special: str) -> dict[str, str]:
    """By custom ID; `special` are the prompts of single lines, as `r3`."""
    return {f"r{number}": special.get(f"r{number}", f"question {number}") for number in range(count)}


def lines(asked: dict[str, str]) -> bytes:
    return b"\n".join(request_line(custom_id, prompt) for custom_id, prompt in asked.items())


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


async def content(client: Client, file_id: str) -> bytes:
    async with aclosing(client.files.content(file_id)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("way", ["folder", "urls"])
async def test_the_main_job(server: GuardedNats, s3: S3Server, tmp_path: Path, way: str) -> None:
    asked = prompts(700, r3="[[fault:status=400]] no", r600="[[fault:status=404]] no")
    path = tmp_path / "requests.jsonl"
    path.write_bytes(lines(asked))
    violations = len(server.violations)
    async with yard(server, tmp_path, s3 if way == "urls" else None) as here:
        client = here.client
        sent: list[int] = []
        file = await client.files.create(path, model=MODEL, progress=sent.append)
        assert (file.filename, file.bytes, sent[-1]) == ("requests.jsonl", path.stat().st_size, file.bytes)
        streamed = await client.files.create(stream(path.read_bytes()), filename="same.jsonl")
        small = await client.files.create(lines(prompts(2)))
        for made in (file, streamed):
            assert await content(client, made.id) == path.read_bytes()
        assert await content(client, small.id) == lines(prompts(2))
        listed = await client.files.list(limit=3)
        assert [one.id for one in listed.data] == [small.id, streamed.id, file.id]

        batch = await client.batches.create(file.id, ENDPOINT, metadata={"job": way})
        seen: list[Batch | BatchProgress] = []
        ended = await client.batches.wait(batch.id, timeout=60, progress=seen.append)
        assert ended.status is BatchStatus.COMPLETED
        assert seen[-1] == ended
        assert any(isinstance(one, BatchProgress) for one in seen)
        assert (await client.batches.list(metadata={"job": way})).data == [ended]

        results = [result async for result in client.batches.results(batch.id)]
        assert [result.custom_id for result in results] == list(asked)
        assert [result.custom_id for result in results if not result.is_success] == ["r3", "r600"]
        for result in results:
            if result.is_success:
                answer = result.body["choices"][0]["message"]["content"]
                assert answer == expected_answer(asked[str(result.custom_id)])
        failed = [result async for result in client.batches.results(batch.id, "failed")]
        assert [(result.custom_id, result.response and result.response.status_code) for result in failed] == [
            ("r3", 400),
            ("r600", 404),
        ]
        again = await client.batches.wait((await client.batches.retry(batch.id)).id, timeout=60)
        assert (again.retry_of, again.request_counts.failed) == (batch.id, 2)
        await client.files.delete(file.id)
        with pytest.raises(NotFound):
            await content(client, file.id)
    assert server.violations[violations:] == []


async def test_following_and_being_wrong(server: GuardedNats, tmp_path: Path) -> None:
    async with yard(server, tmp_path, None) as here, connected(server, "operator") as operator:
        client = here.client
        asked = await operator.client.subscribe(f"{subjects.ROOT}.cmd.*.batches.get")
        await operator.client.flush()

        # A batch whose lines take a while: nobody asks for it over and over meanwhile.
        wishes = [json.loads(line) for line in lines(prompts(20, r7="[[fault:delay=3]] slow")).splitlines()]
        before = len(server.violations)
        batch = await client.batches.create(None, ENDPOINT, requests=wishes, idempotency_key="once")
        assert (await client.batches.create(None, ENDPOINT, requests=wishes, idempotency_key="once")).id == batch.id
        with pytest.raises(Conflict, match="Idempotency-Key"):
            await client.batches.create(None, ENDPOINT, requests=wishes[:3], idempotency_key="once")
        with pytest.raises(TimeoutError, match="goes on"):
            await client.batches.wait(batch.id, timeout=0.2)
        with pytest.raises(Conflict, match="wait until it has ended"):
            await anext(client.batches.results(batch.id))
        waits = [asyncio.create_task(client.batches.wait(batch.id, timeout=60)) for _ in range(2)]
        ended, _ = await asyncio.gather(*waits)
        assert ended.request_counts.completed == 20
        assert asked.pending_msgs < 30  # two for the beginning, and one for each event, of each of three

        # Events: from the beginning, from a place that was kept, and as they happen.
        events = client.batches.events(after=0, batch_id=batch.id)
        seen = [await anext(events) for _ in range(4)]
        await events.aclose()
        assert [stored.event.status for stored in seen] == [
            "validating",
            "in_progress",
            "finalizing",
            "completed",
        ]
        kept = client.batches.events(after=seen[2].sequence)
        assert (await anext(kept)).event.id == seen[3].event.id
        coming = asyncio.create_task(anext(kept))
        other = await client.batches.create(None, ENDPOINT, requests=wishes[:2], model=MODEL)
        assert (await asyncio.wait_for(coming, 30)).event.batch.id == other.id
        await kept.aclose()

        cancelled = await client.batches.create(None, ENDPOINT, requests=wishes)
        await client.batches.cancel(cancelled.id)
        assert (await client.batches.wait(cancelled.id, timeout=60)).status is BatchStatus.CANCELLED
        bad = await client.batches.create((await client.files.create(b"{}\n")).id, ENDPOINT)
        assert (await client.batches.wait(bad.id, timeout=60)).status is BatchStatus.FAILED
        with pytest.raises(NotFound, match="errors"):
            await anext(client.batches.results(bad.id))

        for wrong in ("", "*", ">", "batch_1", "batch_.."):
            with pytest.raises(NotFound):
                await client.batches.wait(wrong, timeout=5)
            with pytest.raises(NotFound):
                await anext(client.batches.events(batch_id=wrong))
        with pytest.raises(InvalidRequest, match="Must be .jsonl"):
            await client.files.create(b"x", filename="in.txt")
        with pytest.raises(FileNotFoundError):
            await client.files.create(tmp_path / "nowhere")
        assert server.violations[before:] == []

        # Without a way to the bytes a folder has none; as another tenant NATS says no, at once.
        async with connect(here.settings, object_store=None) as bare:
            assert (await bare.files.create(lines(prompts(1)))).bytes > 0
            with pytest.raises(InvalidRequest, match="folder"):
                await bare.files.create(stream(b"x"))
        async with connect(here.settings, tenant="another") as stranger:
            with pytest.raises(PermissionDenied, match="may not send commands for the tenant 'another'"):
                await stranger.batches.list()


async def test_a_wrong_password_and_a_server_that_is_not_there(server: GuardedNats) -> None:
    with pytest.raises(AuthenticationFailed):
        async with connect(nats_url=server.url, nats_user="billing", nats_password=SecretStr("no")):
            pass
    with pytest.raises(ServiceUnavailable, match=r"within 0\.5 s"):
        async with connect(nats_url="nats://127.0.0.1:9", connect_timeout=0.5):
            pass


async def test_waiting_outlives_a_restart_of_nats(tmp_path: Path) -> None:
    async with running_sim(SimSettings()) as sim:
        told: dict[str, Any] = {"object_store": f"file://{tmp_path}/objects", "work_ack_wait": 2.0}
        config = config_for(sim.url, tmp_path / "config.yaml")
        with running_nats(tmp_path / "nats") as url:
            port = int(url.rpartition(":")[2])
            told |= {"nats_url": url, "config": config}
            stores = running(file_store.serve(FileStoreSettings(**told)))
            runner = running(batch_runner.serve(RunnerSettings(**told)))
            services = [await stores.__aenter__(), await runner.__aenter__()]
            connecting = connect(nats_url=url, object_store=told["object_store"])
            client = await connecting.__aenter__()
            wishes = [json.loads(line) for line in lines(prompts(5, r2="[[fault:delay=3]] slow")).splitlines()]
            batch = await client.batches.create(None, ENDPOINT, requests=wishes)
            waiting = asyncio.create_task(client.batches.wait(batch.id, timeout=60))
            await sim.until(lambda state: state.capacity.running > 0)
        with running_nats(tmp_path / "nats", port=port):
            assert (await waiting).status is BatchStatus.COMPLETED
            assert len([result async for result in client.batches.results(batch.id)]) == 5
            await connecting.__aexit__(None, None, None)
            await runner.__aexit__(None, None, None)
            await stores.__aexit__(None, None, None)
            assert [service.exception() for service in services] == [None, None]
