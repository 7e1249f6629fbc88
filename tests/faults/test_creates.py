"""A batch is created once, though the answer was lost: what the OpenAI SDK sends again is not a second wish."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from batchyard.cli.waiting import until_found
from support.outages import paused
from support.programs import RUNNER
from support.stack import MASTER_KEY, MODEL
from support.systems import request_line

from .conftest import FaultYard, PatientSystem, said

pytestmark = pytest.mark.timeout(90)
in_one_loop = pytest.mark.asyncio(loop_scope="module")

GATEWAY = "gateway"
ENDPOINT: Final = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PatientSystem]:
    async with AsyncExitStack() as exits:
        yard = FaultYard(exits, tmp_path_factory.mktemp("creates"))
        sim = await yard.sim()
        yield await yard.system(sim.url.removesuffix("/v1"), command_timeout=1, work_ack_wait=2, stale_after=2)


@pytest_asyncio.fixture(loop_scope="module")
async def client(system: PatientSystem) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{system.stack.url}/v1", api_key=MASTER_KEY, max_retries=8) as client:
        yield client


async def uploaded(client: AsyncOpenAI) -> str:
    file = await client.files.create(
        file=("in.jsonl", request_line("a", "hi")), purpose="batch", extra_headers={"x-litellm-model": MODEL}
    )
    return file.id


async def batches_over(client: AsyncOpenAI, file_id: str) -> list[str]:
    return [batch.id async for batch in client.batches.list(limit=100) if batch.input_file_id == file_id]


def refused(system: PatientSystem) -> int:
    """How many requests to create a batch the gateway has answered with 503."""
    entries = said(system.stack, GATEWAY, "http.request")
    return sum(
        entry["method"] == "POST" and entry["route"].endswith("/batches") and entry["status"] == 503
        for entry in entries
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        await until_found(lambda: condition() or None)


@in_one_loop
async def test_commands_that_outlive_their_requests_make_one_batch(system: PatientSystem, client: AsyncOpenAI) -> None:
    """The runner hangs: what the gateway has given up waiting for still lies before it when it comes back."""
    file_id = await uploaded(client)
    before = refused(system)
    with paused(system.stack, RUNNER):
        creating = asyncio.create_task(
            client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")
        )
        await until(lambda: refused(system) >= before + 2)
    batch = await creating
    await system.ended(batch.id)
    assert await batches_over(client, file_id) == [batch.id]


@in_one_loop
async def test_a_gateway_that_dies_waiting_for_the_answer(system: PatientSystem, client: AsyncOpenAI) -> None:
    """The gateway that comes after it remembers nothing: only the client says that it asks again."""
    file_id = await uploaded(client)
    with paused(system.stack, RUNNER):
        creating = asyncio.create_task(
            client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")
        )
        await asyncio.sleep(0.3)  # well within the second that the gateway waits
        killed = system.stack.kill(GATEWAY)
        await system.stack.restarted(GATEWAY, after=killed)
    batch = await creating
    await system.ended(batch.id)
    assert await batches_over(client, file_id) == [batch.id]


@in_one_loop
async def test_a_client_that_does_not_say_that_it_asks_again(system: PatientSystem, client: AsyncOpenAI) -> None:
    """As with curl: the same body within seconds of a 503 is the same wish, and after an answer a new one."""
    file_id = await uploaded(client)
    body = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}

    async def post() -> httpx.Response:
        return await system.http.post(f"{system.stack.url}/v1/batches", json=body)

    with paused(system.stack, RUNNER):
        assert (await post()).status_code == 503
    answers: list[Any] = [(await post()).json() for _ in range(2)]
    await system.ended(answers[0]["id"])
    assert await batches_over(client, file_id) == [answer["id"] for answer in answers[::-1]]


@in_one_loop
async def test_a_key_holds_across_the_death_of_everything(system: PatientSystem, client: AsyncOpenAI) -> None:
    file_id = await uploaded(client)

    async def create() -> str:
        batch = await client.batches.create(
            input_file_id=file_id,
            endpoint=ENDPOINT,
            completion_window="24h",
            extra_headers={"Idempotency-Key": file_id[:200]},
        )
        return batch.id

    first = await create()
    for program in (RUNNER, GATEWAY, "nats"):
        await system.stack.restarted(program, after=system.stack.kill(program))
    assert await create() == first
    assert await batches_over(client, file_id) == [first]
