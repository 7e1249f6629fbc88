"""Calls to a server with a Batch API, and two runs of one batch at a time."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.native.api import NativeApi, NotAnswering, Refused
from batchyard.batch_runner.native.servers import NativeServers, Undecided
from batchyard.batch_runner.native.upload import upstream_input
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.pauses import Pauses
from batchyard.batch_runner.results import Results
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.shard import ShardRange, ShardTable
from batchyard.batch_runner.shard_input import shard_input
from batchyard.batch_runner.tally import ShardProgress
from batchyard.batch_runner.upstream import HttpUpstream
from batchyard.common.clock import SystemClock
from batchyard.common.config import BatchMode, Config, Deployment
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.ids import new_raw_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import LocalObjectStore, ObjectStoreUnavailable
from batchyard.common.service import Messaging
from support.batch_server import BatchServer, answered, listening

from .conftest import MODEL, chat_line
from .records import new_record

SETTINGS = RunnerSettings(native_poll_first=0.02, native_poll_cap=0.1, native_cancel_grace=2.0)


@pytest.fixture
async def server() -> AsyncIterator[BatchServer]:
    async with listening(BatchServer()) as server:
        yield server


@pytest.fixture
async def api() -> AsyncIterator[NativeApi]:
    async with NativeApi(5.0, SystemClock()) as api:
        yield api


def deployment(server: BatchServer, **changes: Any) -> Deployment:
    values = {"id": "d", "pool": MODEL, "model": MODEL, "base_url": server.url, "batch_mode": BatchMode.NATIVE}
    return Deployment(**{**values, **changes})


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_an_input_is_stored_as_it_was_streamed(server: BatchServer, api: NativeApi) -> None:
    file = await api.upload(deployment(server), "x.jsonl", chunks(b"a\n", b"", b"b\n"))
    assert server.uploads == [b"a\nb\n"]
    assert await api.files_named(deployment(server), "x.jsonl") == [file.id]


async def test_what_stops_the_stream_is_not_taken_for_an_outage_of_the_server(
    server: BatchServer, api: NativeApi
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a\n"
        raise ObjectStoreUnavailable("gone")

    with pytest.raises(ObjectStoreUnavailable):
        await api.upload(deployment(server), "x.jsonl", broken())
    assert server.uploads == []


async def test_a_batch_is_found_on_any_page(server: BatchServer, api: NativeApi) -> None:
    where = deployment(server)
    file = await api.upload(where, "x.jsonl", chunks(b"{}"))
    wanted = await api.create(where, "batch_ours", file.id, "/v1/x")
    for number in range(5):
        await api.create(where, f"batch_{number}", file.id, "/v1/x")
    found = await api.find(where, "batch_ours", 0)
    assert found is not None
    assert found.id == wanted.id
    assert await api.find(where, "batch_unknown", 0) is None
    seen = len(server.asked)
    assert await api.find(where, "batch_ours", 1000) is None, "nothing older than the input is looked at"
    assert len(server.asked) == seen + 1


async def test_an_end_that_has_come_already_is_fine(server: BatchServer, api: NativeApi) -> None:
    where = deployment(server)
    file = await api.upload(where, "x.jsonl", chunks(b'{"custom_id":"c","body":{"messages":[]}}'))
    batch = await api.create(where, "batch_ours", file.id, "/v1/x")
    assert (await api.batch(where, batch.id)).batch.is_over
    await api.cancel(where, batch.id)
    await api.delete_file(where, file.id)
    await api.delete_file(where, file.id)


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (429, {"retry-after": "7"}, NotAnswering),
        (500, {}, NotAnswering),
        (503, {}, NotAnswering),
        (409, {}, NotAnswering),
        (409, {"x-should-retry": "false"}, Refused),
        (400, {}, Refused),
        (401, {}, Refused),
        (404, {}, Refused),
    ],
)
async def test_an_outage_is_told_from_a_refusal(
    server: BatchServer, api: NativeApi, status: int, headers: dict[str, str], error: type[Exception]
) -> None:
    server.outage = (status, headers)
    with pytest.raises(error) as caught:
        await api.create(deployment(server), "batch_ours", "f", "/v1/x")
    if isinstance(caught.value, NotAnswering):
        assert caught.value.retry_after == (7.0 if headers else None)
    else:
        assert cast(Refused, caught.value).refusal.message == "busy"


async def test_a_server_that_is_not_there_does_not_answer(api: NativeApi) -> None:
    async with listening(BatchServer()) as server:
        where = deployment(server)
    with pytest.raises(NotAnswering):
        await api.has_batches(where)


async def natives(
    messaging: Messaging, objects: LocalObjectStore, api: NativeApi, *deployments: Deployment
) -> NativeServers:
    store = BatchStore(messaging.connection, messaging.js, objects)
    clock = SystemClock()
    fleet = Fleet(Config(deployments=deployments), SETTINGS, HttpUpstream(1.0, 1024), clock)
    return NativeServers(store, fleet, api, SETTINGS, clock, random.Random(1))


async def test_a_pool_that_the_configuration_lost_meanwhile_is_undecided(
    messaging: Messaging, tmp_path: Path, server: BatchServer, api: NativeApi
) -> None:
    servers = await natives(messaging, LocalObjectStore(tmp_path), api, deployment(server))
    with pytest.raises(Undecided):
        await servers.choose("gone")
    with pytest.raises(Undecided):
        await servers.check_mixed([None, "gone"])


async def running_batch(store: BatchStore, **note: Any) -> BatchRecord:
    """A batch of five lines in progress on the server `d`, and what is noted of it."""
    content = b"\n".join(chat_line(f"r{index}", f"question {index}") for index in range(5))
    await store.objects.put("input", content)
    record = new_record(
        raw_id=new_raw_id("batch"),
        input_key="input",
        model=MODEL,
        pool=MODEL,
        native=NativeNote(deployment="d", **note),
        status=BatchStatus.IN_PROGRESS,
        expires_at=10**10,
        shards=1,
        dispatched=1,
    )
    table = ShardTable([ShardRange(0, len(content), 1, 5)])
    record = record.model_copy(update={"plan_key": await store.write_table(record, "x", table)})
    await store.records.create(record.key, record)
    return record


async def ignore(progress: ShardProgress) -> None:
    pass


async def test_of_two_runs_at_once_one_batch_remains(
    messaging: Messaging, tmp_path: Path, server: BatchServer, api: NativeApi
) -> None:
    """As when a runner that was thought dead goes on: both create, what is noted first counts."""
    server.together = asyncio.Barrier(2)
    objects = LocalObjectStore(tmp_path / "objects")
    servers = await natives(messaging, objects, api, deployment(server))
    store = BatchStore(messaging.connection, messaging.js, objects)
    record = await running_batch(store)
    where = shard_input(record, await store.table(record), 0)
    runs = [servers.run(record, replace(where, attempt=attempt), ignore) for attempt in ("one", "two")]
    await asyncio.wait_for(asyncio.gather(*(run.execute() for run in runs)), 20)
    outcomes = [await run.settle() for run in runs]
    assert [outcome.completed for outcome in outcomes] == [5, 5]
    assert len(server.batches) == 2
    left = [batch for batch in server.batches.values() if batch["status"] not in ("cancelling", "cancelled")]
    noted = await store.get("t", record.raw_id)
    assert noted is not None
    assert noted.native is not None
    assert [batch["id"] for batch in left] == [noted.native.batch_id]
    await servers.clean(noted)
    assert server.files == {}


class Watched(Pauses):
    """Tells when somebody waits for a pause to be over."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = asyncio.Event()

    async def over(self, tenant: str, key_id: str | None) -> None:
        self.is_waited_for.set()
        await super().over(tenant, key_id)


async def test_nothing_is_begun_at_the_server_during_a_pause(
    messaging: Messaging, tmp_path: Path, server: BatchServer, api: NativeApi
) -> None:
    objects = LocalObjectStore(tmp_path / "objects")
    servers = await natives(messaging, objects, api, deployment(server))
    store = BatchStore(messaging.connection, messaging.js, objects)
    record = await running_batch(store)
    pauses = Watched()
    pauses.pause(("t", None), "the budget of the team is spent")
    where = shard_input(record, await store.table(record), 0)
    run = servers.run(record, where, ignore, pauses.of("t", None))
    executing = asyncio.create_task(run.execute())
    await asyncio.wait_for(pauses.is_waited_for.wait(), 20)
    assert (server.files, server.batches) == ({}, {})
    pauses.resume(("t", None))
    await asyncio.wait_for(executing, 20)
    assert (await run.settle()).completed == 5


async def test_a_batch_that_its_runner_left_is_cancelled_by_whoever_ends_it(
    messaging: Messaging, tmp_path: Path, server: BatchServer, api: NativeApi
) -> None:
    """The runner died after it had created the server's batch and before it had noted it."""
    objects = LocalObjectStore(tmp_path / "objects")
    servers = await natives(messaging, objects, api, deployment(server))
    store = BatchStore(messaging.connection, messaging.js, objects)
    record = await running_batch(store)
    where = shard_input(record, await store.table(record), 0)
    file = await api.upload(deployment(server), "x.jsonl", upstream_input(objects, where, MODEL))
    server.held = True
    server.answer = lambda line: answered(line) if line["custom_id"].endswith("1") else None
    theirs = await api.create(deployment(server), record.raw_id, file.id, record.endpoint)
    changes = {"native": NativeNote(deployment="d", uploads=1, file_id=file.id), "status": BatchStatus.CANCELLING}
    left = await store.change(record, lambda current: current.model_copy(update=changes))
    assert left is not None
    results = Results(store, servers, CommandClient(messaging.connection), SETTINGS)
    await asyncio.wait_for(results.settle_abandoned(left, 0), 10)
    assert server.batches[theirs.id]["status"] == "cancelled"
    outcome = await store.outcome(left, 0)
    assert outcome is not None
    assert (outcome.completed, outcome.failed, outcome.not_run) == (1, 0, 4)


async def test_the_least_busy_server_for_its_weight_takes_the_next_batch(
    messaging: Messaging, tmp_path: Path, server: BatchServer, api: NativeApi
) -> None:
    light, heavy = deployment(server, id="light"), deployment(server, id="heavy", weight=2.0)
    lines = deployment(server, id="lines", batch_mode=BatchMode.REQUESTS)
    servers = await natives(messaging, LocalObjectStore(tmp_path), api, light, heavy, lines)
    taken = []
    with ExitStack() as running:
        for _ in range(6):
            note = await servers.choose(MODEL)
            assert note is not None
            taken.append(note.deployment)
            running.enter_context(servers.counted(new_record(native=note)))
    assert sorted(taken) == ["heavy"] * 4 + ["light"] * 2
