"""Limits and budgets of a whole system: what clients are told, and that no race gets more than fits."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from openai import AsyncOpenAI, RateLimitError

from batchyard.vllm_sim.testing import RunningSim
from support.postgres import PostgresServer, postgresql_missing, running_postgres
from support.receiver import LOOPBACK, receiving
from support.stack import MODEL, TOKEN_PRICES
from support.systems import System, Yard, request_line

ENDPOINT: Any = "/v1/chat/completions"
AT_ONCE = 10
PRICE = 0.000001 * 100_000  # of the input of one batch of `uploaded`, and a little less than of all of it
TIMED = {"input_cost_per_second": "0.004"}  # by which that input costs the same: it is taken for 25 seconds


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if reason := postgresql_missing():
        pytest.skip(reason)
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "sqlite":
        return {}
    server: PostgresServer = request.getfixturevalue("postgres")
    return {"database_url": server.database().set(drivername="postgresql").render_as_string(hide_password=False)}


@pytest.fixture
async def sim(yard: Yard) -> RunningSim:
    return await yard.sim()


class Bank:
    """A system with teams, their keys, and clients for these."""

    def __init__(self, system: System, exits: AsyncExitStack) -> None:
        self.system = system
        self._exits = exits

    async def admin(self, path: str, **body: Any) -> Any:
        response = await self.system.http.post(f"{self.system.stack.url}{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def client(self, *, retries: int = 0, key: dict[str, Any] | None = None, **team: Any) -> AsyncOpenAI:
        """A client of a new team with these limits, and a key of its own."""
        made = await self.admin("/team/new", **team)
        secret = (await self.admin("/key/generate", team_id=made["team_id"], **(key or {})))["key"]
        return await self._exits.enter_async_context(
            AsyncOpenAI(base_url=f"{self.system.stack.url}/v1", api_key=secret, max_retries=retries)
        )


async def open_bank(
    yard: Yard,
    sim: RunningSim,
    exits: AsyncExitStack,
    *,
    prices: Mapping[str, str] = TOKEN_PRICES,
    **environment: object,
) -> Bank:
    return Bank(await yard.system(sim.url.removesuffix("/v1"), prices=prices, **environment), exits)


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exits:
        yield exits


async def uploaded(client: AsyncOpenAI, size: int = 400_000) -> str:
    """A batch of one line whose input is estimated at a quarter of `size` tokens, and its answer at 256."""
    file = await client.files.create(
        file=("in.jsonl", request_line("a", "x" * size)), purpose="batch", extra_headers={"x-litellm-model": MODEL}
    )
    return file.id


async def create(client: AsyncOpenAI, file_id: str) -> Any:
    return await client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")


@pytest.mark.parametrize(
    ("database", "prices"),
    [
        pytest.param("sqlite", TOKEN_PRICES, id="sqlite, priced by tokens"),
        pytest.param("postgresql", TIMED, id="postgresql, priced by time"),
    ],
    indirect=["database"],
)
async def test_ten_batches_at_once_do_not_slip_through_a_budget(
    yard: Yard, sim: RunningSim, exits: AsyncExitStack, database: dict[str, str], prices: dict[str, str]
) -> None:
    """Three and a half of them fit, however they race."""
    sim.state.healthy = False  # so that none has ended before the last one comes
    bank = await open_bank(yard, sim, exits, prices=prices, **database)
    client = await bank.client(max_budget=PRICE * 3.5, budget_duration="1mo")
    file_id = await uploaded(client)
    answers = await asyncio.gather(*(create(client, file_id) for _ in range(AT_ONCE)), return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, RateLimitError)]
    assert len(refusals) == AT_ONCE - 3, answers
    assert len([batch async for batch in client.batches.list()]) == 3
    for refusal in refusals:
        assert (refusal.code, refusal.type) == ("insufficient_quota", "insufficient_quota")
        assert refusal.response.headers["x-should-retry"] == "false"
        assert int(refusal.response.headers["retry-after"]) > 0
        assert "You exceeded your current quota" in refusal.message
        assert "It is reset at" in refusal.message
    for batch in [answer for answer in answers if not isinstance(answer, BaseException)][:1]:
        await client.batches.cancel(batch.id)
        async with asyncio.timeout(30):
            while True:  # billing hears of the end a moment after the batch has ended
                try:
                    await create(client, file_id)
                    break
                except RateLimitError:
                    await asyncio.sleep(0.05)


async def test_a_client_that_retries_gets_through_when_there_is_room(
    yard: Yard, sim: RunningSim, exits: AsyncExitStack
) -> None:
    """A limit that passes is worth the SDK's second try, one that does not pass is not."""
    sim.state.healthy = False
    bank = await open_bank(yard, sim, exits)
    client = await bank.client(max_batches=1, max_enqueued_lines=5)
    file_id = await uploaded(client, 10)
    first = await create(client, file_id)
    with pytest.raises(RateLimitError, match="Enqueued batch limit reached for the team") as raised:
        await create(client, file_id)
    assert raised.value.code == "rate_limit_exceeded"
    assert "x-should-retry" not in raised.value.response.headers
    assert int(raised.value.response.headers["retry-after"]) > 0
    await client.batches.cancel(first.id)
    async with asyncio.timeout(30):
        while (await client.batches.retrieve(first.id)).status != "cancelled":
            await asyncio.sleep(0.05)
    await create(client, file_id)
    lines = b"\n".join(request_line(f"r{number}", "hi") for number in range(6))
    small = await bank.client(max_enqueued_lines=5)
    large = await small.files.create(file=("in.jsonl", lines), purpose="batch")
    with pytest.raises(RateLimitError) as never:
        await create(small, large.id)
    assert never.value.response.headers["x-should-retry"] == "false"


async def test_a_keys_own_limits_hold_within_its_teams(yard: Yard, sim: RunningSim, exits: AsyncExitStack) -> None:
    sim.state.healthy = False
    bank = await open_bank(yard, sim, exits)
    client = await bank.client(key={"max_budget": PRICE * 1.5, "max_enqueued_lines": 1})
    file_id = await uploaded(client)
    first = await create(client, file_id)
    with pytest.raises(RateLimitError, match="for the API key"):
        await create(client, file_id)
    assert (await client.batches.retrieve(first.id)).id == first.id


async def test_batches_pause_while_a_budget_is_spent(yard: Yard, exits: AsyncExitStack) -> None:
    """The team's or the key's, here by the time that running batches take. What is in flight ends, nothing new is
    sent, and all goes on when it is raised. That a soft budget was passed is told by a webhook."""
    sim = await yard.sim(base_latency=0.1)
    quick = {"budget_interval": 0.2, "flush_interval": 0.2, "webhook_allowed_networks": LOOPBACK}
    bank = await open_bank(yard, sim, exits, prices={"input_cost_per_second": "1"}, max_parallel_requests=4, **quick)
    limited: dict[str, Any] = {"max_budget": 1000, "pause_over_budget": True}
    clients = [
        await bank.client(team_id="crew", soft_budget=0.5, **limited),
        await bank.client(team_id="troop", key=limited),
    ]
    receiver, hears = await exits.enter_async_context(receiving()), cast("Any", ["budget.soft_exceeded"])
    endpoint = await clients[0].webhooks.create(name="warn", url=receiver.url, event_types=hears)
    keys = await bank.system.call("GET", "/key/list", params={"team_id": "troop"})
    lines = b"\n".join(request_line(f"r{number}", "hi") for number in range(120))
    batches = []
    for client in clients:
        file = await client.files.create(
            file=("in.jsonl", lines), purpose="batch", extra_headers={"x-litellm-model": MODEL}
        )
        batches.append((client, (await create(client, file.id)).id))

    async def now() -> list[Any]:
        return [await client.batches.retrieve(batch_id) for client, batch_id in batches]

    async def until(condition: Any) -> list[Any]:
        async with asyncio.timeout(60):
            while not all(map(condition, found := await now())):
                await asyncio.sleep(0.05)
            return found

    async def allow(amount: float) -> None:
        await bank.admin("/team/update", team_id="crew", max_budget=amount)
        await bank.admin("/key/update", key=keys["keys"][0], max_budget=amount)

    async def completed() -> list[int]:
        return [found.request_counts.completed for found in await now()]

    await until(lambda found: found.request_counts.completed >= 4)
    await allow(0.3)  # of the 3 seconds that each takes
    paused = await until(lambda found: found.model_extra.get("status_reason") is not None)
    for found, whose in zip(paused, ("the team", "the API key"), strict=True):
        assert f"The budget of {whose} is spent" in found.model_extra["status_reason"]
        assert found.status == "in_progress"
    await asyncio.sleep(1.0)  # for what was in flight: each takes a tenth of it
    before = await completed()
    await asyncio.sleep(1.5)  # at four at a time, sixty more would have been answered
    assert before == await completed()
    assert max(before) < 120
    await allow(1000)
    for found in await until(lambda found: found.status == "completed"):
        assert found.request_counts.completed == 120
        assert found.model_extra["status_reason"] is None
    (warning,) = await receiver.until(lambda received: len(received) > 0)
    told = warning.unwrapped(endpoint.signing_secret)
    assert (told.type, told.data.team_id, told.data.key_id) == ("budget.soft_exceeded", "crew", None)
    assert float(told.data.spent) >= float(told.data.soft_budget) == 0.5
