"""The model of a batch: who says it, what it is called where, and who may serve it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from batchyard.batch_runner.batch import BatchRecord, record_key
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.upstream import HttpUpstream
from batchyard.common.clock import SystemClock
from batchyard.common.config import load_config
from batchyard.common.contracts.batches import Batch, BatchStatus, CreateBatch
from batchyard.common.contracts.health import CheckBatchRunner, CheckFileStore
from batchyard.common.contracts.models import ListModels
from batchyard.common.ids import decode_id
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import BATCHES_BUCKET, WORK
from batchyard.common.objects import open_object_store
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim
from support.services import Caller, file_store_and_runner

ENDPOINT = "/v1/chat/completions"
SERVED = ("llama-8b", "qwen", "mistral")


@dataclass
class Yard:
    sim: RunningSim
    call: Caller

    async def run(self, id_model: str | None, model: str | None, *line_models: str | None) -> Batch:
        """A batch whose model is named in these places; None where it is not."""
        file = await self.call.upload(b"\n".join(line(n, name) for n, name in enumerate(line_models)), model=id_model)
        batch: Batch = await self.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, model=model))
        return await self.call.ended(batch.id)

    def sent(self) -> list[str | None]:
        """The models named in the requests that reached the server since it was asked last."""
        models = [record.model for record in self.sim.state.log.records()]
        self.sim.state.log.clear()
        return models


def line(number: int, model: str | None) -> bytes:
    body = {"messages": [{"role": "user", "content": "hello"}], **({} if model is None else {"model": model})}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body}).encode()


ENTRIES = [("llama", "llama-8b"), ("llama", "mistral"), ("q", "qwen"), ("team-*", "*")]


def write_config(path: Path, url: str, entries: Sequence[tuple[str, str]] = tuple(ENTRIES)) -> Path:
    document = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"hosted_vllm/{model}", "api_base": url}}
            for name, model in entries
        ],
        "router_settings": {
            "model_group_alias": {"fast": "llama", "own": {"model": "team-qwen", "hidden": True}, "faster": "fast"}
        },
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
async def open_yard(settings: Settings, messaging: Messaging, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as exits:

        async def opened(base_latency: float = 0.0, **runner: Any) -> Yard:
            sim = await exits.enter_async_context(
                running_sim(SimSettings(port=0, models=SERVED, base_latency=base_latency))
            )
            config = write_config(tmp_path / "config.yaml", sim.url)
            await exits.enter_async_context(file_store_and_runner(settings, config=config, **runner))
            objects = open_object_store(settings.object_store)
            exits.push_async_callback(objects.close)
            caller = Caller(CommandClient(messaging.connection), objects)
            await caller.ready(CheckFileStore(), CheckBatchRunner())
            return Yard(sim, caller)

        yield opened


@pytest.fixture
async def yard(open_yard: Callable[..., Any]) -> Yard:
    found: Yard = await open_yard()
    return found


async def test_the_id_goes_before_the_request_and_the_request_before_the_lines(
    yard: Yard, subtests: pytest.Subtests
) -> None:
    async def check(id_model: str | None, model: str | None, line_model: str | None) -> None:
        batch = await yard.run(id_model, model, line_model)
        named = id_model or model or line_model
        # The names that follow do not decide, but they must not contradict.
        contradicts = line_model is not None and line_model != named
        with subtests.test(id=id_model, request=model, line=line_model):
            assert decode_id(batch.id).model == (id_model or model)
            if named is None:
                assert codes(batch) == ["invalid_request"]
            elif contradicts:
                assert codes(batch) == ["mismatched_model"]
            else:
                assert (batch.status, batch.model) == (BatchStatus.COMPLETED, named)

    choices = [None, "llama", "q"]
    await asyncio.gather(*(check(*combination) for combination in product(choices, repeat=3)))


BOTH = {"llama-8b", "mistral"}
NAMES: list[tuple[str, str, set[str]]] = [
    ("llama", "llama", BOTH),
    ("hosted_vllm/llama", "llama", BOTH),
    ("llama-8b", "llama", BOTH),
    ("fast", "llama", BOTH),
    ("faster", "llama", BOTH),
    ("hosted_vllm/fast", "llama", BOTH),
    ("q", "q", {"qwen"}),
    ("team-qwen", "team-qwen", {"qwen"}),
    ("hosted_vllm/team-qwen", "team-qwen", {"qwen"}),
    ("own", "team-qwen", {"qwen"}),
]


async def test_a_model_has_one_name_for_all_of_its_names(yard: Yard, subtests: pytest.Subtests) -> None:
    for said, shown, sent in NAMES:
        with subtests.test(said=said):
            for in_id, in_request, lines in (
                (said, None, [None, said, shown]),
                (None, said, [None, shown]),
                (None, None, [said]),
            ):
                batch = await yard.run(in_id, in_request, *lines)
                assert (batch.status, batch.model) == (BatchStatus.COMPLETED, shown), batch.errors
            reached = yard.sent()
            assert len(reached) == 6
            assert set(reached) <= sent


MISFITS: list[tuple[list[str | None], list[tuple[str, int]]]] = [
    (["llama", "q"], [("mismatched_model", 2)]),
    (["fast", "own"], [("mismatched_model", 2)]),
    (["team-qwen", "team-mistral"], [("mismatched_model", 2)]),
    (["team-qwen", "q"], [("mismatched_model", 2)]),
    (["ghost", "ghost"], [("model_not_found", 1), ("model_not_found", 2)]),
    (["llama", "ghost"], [("model_not_found", 2)]),
    (["llama", "team-ghost"], [("model_not_found", 2)]),
    (["team-ghost"], [("model_not_found", 1)]),
    (["team-*"], [("model_not_found", 1)]),
    (["Llama"], [("model_not_found", 1)]),
    ([None], [("invalid_request", 1)]),
]


async def test_names_that_do_not_fit_are_told_with_their_line(yard: Yard, subtests: pytest.Subtests) -> None:
    for names, expected in MISFITS:
        with subtests.test(names=names):
            batch = await yard.run(None, None, *names)
            assert batch.errors is not None
            assert [(problem.code, problem.line) for problem in batch.errors.data] == expected
    assert yard.sent() == []


async def test_lines_of_several_models_may_use_any_of_their_names(
    open_yard: Callable[..., Any], messaging: Messaging
) -> None:
    yard = await open_yard(mixed_models=True)
    names = ["fast", "llama", "hosted_vllm/llama", "own", "team-mistral", "q", "hosted_vllm/team-qwen"]
    batch = await yard.run(None, None, *names)
    assert (batch.status, batch.model, batch.request_counts.completed) == (BatchStatus.COMPLETED, None, 7)
    reached = yard.sent()
    assert reached.count("qwen") == 3
    assert "mistral" in reached
    assert set(reached) <= set(SERVED)
    key = record_key(yard.call.tenant, decode_id(batch.id).raw)
    entry = await Records(messaging.js, BATCHES_BUCKET, BatchRecord).get(key)
    assert entry is not None
    completed: Counter[str | None] = Counter()
    for part in entry.value.work:
        completed[part.model] += part.completed
    assert completed == {"llama": 3, "team-qwen": 2, "team-mistral": 1, "q": 1}
    assert all(part.busy_microseconds > 0 for part in entry.value.work)


async def test_one_model_of_several_may_vanish_for_a_while(
    open_yard: Callable[..., Any], messaging: Messaging, tmp_path: Path
) -> None:
    yard = await open_yard(
        base_latency=0.1,
        mixed_models=True,
        config_poll_interval=0.02,
        max_parallel_requests=1,
        shard_lines=1,
        shard_window=2,
    )
    names = [name for _ in range(20) for name in ("llama", "own", "team-mistral")]
    file = await yard.call.upload(b"\n".join(line(number, name) for number, name in enumerate(names)))
    batch = await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT))
    await yard.call.until(batch.id, lambda _: yard.sim.state.log.total > 3)
    write_config(tmp_path / "config.yaml", yard.sim.url, [("llama", "llama-8b"), ("team-qwen", "qwen")])
    waiting = await yard.call.until(batch.id, lambda batch: batch.status_reason is not None)
    assert waiting.status_reason == (
        "The models 'team-mistral' and 'team-qwen' are no longer configured. The requests wait until that changes, the "
        "others go on; none is lost."
    )
    await yard.call.until(batch.id, lambda batch: batch.request_counts.completed >= 20)
    async with asyncio.timeout(10):  # their shards do not fill the queue; what is settled leaves it a moment later
        while (await messaging.js.stream_info(WORK)).state.messages > 2 * 2:
            await asyncio.sleep(0.01)
    write_config(tmp_path / "config.yaml", yard.sim.url)
    batch = await yard.call.ended(batch.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (60, 0)
    assert yard.sim.state.log.total == 60


async def test_models_and_aliases_are_listed_with_what_is_served_behind_patterns(yard: Yard) -> None:
    listed = await yard.call(ListModels())
    assert [model.id for model in listed.data] == [
        "llama",
        "q",
        "fast",
        "faster",
        "team-llama-8b",
        "team-qwen",
        "team-mistral",
    ]


def codes(batch: Batch) -> list[str]:
    return [] if batch.errors is None else [problem.code for problem in batch.errors.data]


async def test_a_pattern_of_servers_that_cannot_be_asked_takes_every_name(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path / "config.yaml", "http://127.0.0.1:9"), {})
    settings = RunnerSettings()
    async with HttpUpstream(settings.request_timeout, settings.max_response_bytes) as upstream:
        fleet = Fleet(config, settings, upstream, SystemClock())
        assert await fleet.pool_for("team-ghost") == "team-*"
        assert await fleet.pool_for("ghost") is None
        await fleet.close()
