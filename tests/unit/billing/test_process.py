"""The real process: it starts, says when it is ready, records, and stops when asked."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from unit.billing.ends import ended, eventually, on_sqlite, publish, quick_consumer, settled, started

from batchyard.billing.ledger import Ledger
from batchyard.common.contracts.billing import GetSpend
from batchyard.common.contracts.health import CheckBilling
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.service import Messaging
from batchyard.common.settings import Settings

CONFIG = """
model_list:
  - model_name: llama
    litellm_params:
      model: hosted_vllm/llama
      api_base: http://127.0.0.1:1
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.000002
    model_info: {id: one}
batchyard_settings: {currency: EUR, batch_discount: 0.5, surprise: 1}
"""


@pytest.fixture
def environment(settings: Settings, database_url: URL, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    return os.environ | {
        "BATCHYARD_CONFIG": str(config),
        "BATCHYARD_NATS_URL": settings.nats_url,
        "BATCHYARD_DATABASE_URL": database_url.render_as_string(hide_password=False),
    }


@asynccontextmanager
async def billing(environment: dict[str, str]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batchyard.billing"), env=environment, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def finished(process: Process) -> tuple[int | None, list[dict[str, Any]]]:
    """The exit code and the log of a process that is about to end."""
    _, log = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, [json.loads(line) for line in log.splitlines()]


async def ready(client: CommandClient) -> bool:
    try:
        return (await client.call("system", CheckBilling())).status == "ok"
    except ServiceUnavailable:
        return False


async def spent(client: CommandClient) -> list[str | None]:
    return [line.batch_id for line in (await client.call("team-a", GetSpend())).data]


async def test_it_starts_records_answers_and_stops(messaging: Messaging, environment: dict[str, str]) -> None:
    client = CommandClient(messaging.connection, timeout=5.0)
    event = ended()

    async def recorded() -> bool:
        return await spent(client) == [event.batch.id]

    async with billing(environment) as process:
        await eventually(lambda: ready(client))
        await publish(messaging.js, event)
        await eventually(recorded)
        [line] = (await client.call("team-a", GetSpend())).data
        assert (line.cost, line.currency) == (Decimal("0.00055"), "EUR")
        process.send_signal(signal.SIGTERM)
        code, log = await finished(process)
    assert code == 0
    told = [entry["event"] for entry in log if entry["event"] not in ("mirror.current", "prices.changed")]
    assert told[:3] == ["config.unknown_key", "service.started", "ledger.recorded"]
    assert told[-1] == "service.stopped"
    assert "surprise" in log[0]["detail"]


async def test_what_a_killed_process_left_behind_is_recorded_once(
    messaging: Messaging, environment: dict[str, str], ledger: Ledger
) -> None:
    client = CommandClient(messaging.connection, timeout=5.0)
    events = [ended() for _ in range(40)]
    async with billing(environment) as process:
        await eventually(lambda: ready(client))
        for event in events:
            await publish(messaging.js, event)
        process.kill()
        await process.communicate()
    consumer = quick_consumer()
    async with started(messaging, consumer, ledger):
        await eventually(lambda: settled(messaging, consumer))
    async with billing(environment):
        await eventually(lambda: ready(client))
        assert sorted(map(str, await spent(client))) == sorted(event.batch.id for event in events)


@on_sqlite
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("BATCHYARD_DATABASE_URL", "mysql://u:hunter2@h/d", "must name a SQLite or PostgreSQL database"),
        ("BATCHYARD_DATABASE_URL", "sqlite:////proc/nowhere/billing.db", "directory cannot be made"),
        ("BATCHYARD_CONFIG", "/nowhere.yaml", "/nowhere.yaml: cannot be read"),
    ],
)
async def test_a_misconfiguration_ends_it_with_2(environment: dict[str, str], name: str, value: str, told: str) -> None:
    async with billing(environment | {name: value}) as process:
        _, log = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert told in log.decode()
    assert "hunter2" not in log.decode()
