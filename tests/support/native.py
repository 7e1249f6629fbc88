"""Two Batchyards, one of which is the model server of the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchyard.cli.running import running_stack
from batchyard.cli.supervisor import RestartPolicy, Supervisor
from batchyard.common.ids import decode_id
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import RunningSim, running_sim
from support.stack import MASTER_KEY, MODEL
from support.systems import System, expected_answer, request_line

DEPLOYMENT = "next-door"
PRICES = {"input_cost_per_token": 0.000001, "output_cost_per_token": 0.000002}
LINES = 60
REFUSED = "[[fault:status=400]]"
QUICK = {
    "BATCHYARD_WORK_ACK_WAIT": "1",
    "BATCHYARD_FLUSH_INTERVAL": "0.1",
    "BATCHYARD_CANCEL_GRACE": "0.2",
    "BATCHYARD_RECONCILE_INTERVAL": "0.5",
    "BATCHYARD_STALE_AFTER": "2",
    "BATCHYARD_NATIVE_POLL_FIRST": "0.1",
    "BATCHYARD_NATIVE_POLL_CAP": "0.5",
}


@asynccontextmanager
async def system(directory: Path, client: httpx.AsyncClient, api_base: str, **entry: Any) -> AsyncIterator[System]:
    """A system over one server, given its address and what else its `model_list` entry says."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yaml"
    params = {"model": f"hosted_vllm/{MODEL}", "api_base": api_base, "api_key": MASTER_KEY, **PRICES}
    document = {
        "model_list": [
            {"model_name": MODEL, "litellm_params": params, "model_info": {"id": DEPLOYMENT, **entry}},
        ],
        "general_settings": {"master_key": MASTER_KEY},
    }
    config.write_text(json.dumps(document))
    supervisor = Supervisor(RestartPolicy(first=0.1, factor=1.0))
    async with running_stack(directory / "data", config=config, environment=QUICK, supervisor=supervisor) as stack:
        yield System(stack, client)


async def upstream_batches(upstream: System, batch_id: str) -> list[Any]:
    """The batches that the server next door has, or had, for one of ours."""
    raw_id = decode_id(batch_id).raw
    page = await upstream.call("GET", "/batches", params={"limit": 100})
    assert not page["has_more"]
    return [batch for batch in page["data"] if (batch["metadata"] or {}).get("batchyard_batch") == raw_id]


@dataclass
class Street:
    """Two systems and the simulator at the end."""

    ours: System
    upstream: System
    sim: RunningSim


@asynccontextmanager
async def running_street(directory: Path) -> AsyncIterator[Street]:
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    async with AsyncExitStack() as exits:
        client = await exits.enter_async_context(httpx.AsyncClient(headers=headers, timeout=60, trust_env=False))
        sim = await exits.enter_async_context(running_sim(SimSettings(port=0, base_latency=0.05)))
        upstream = await exits.enter_async_context(system(directory / "upstream", client, sim.url, batch_mode="auto"))
        there = upstream.stack.url
        ours = await exits.enter_async_context(system(directory / "ours", client, there, batch_mode="auto"))
        yield Street(ours, upstream, sim)


def prompt(index: int) -> str:
    return f"question {index} {REFUSED if index % 10 == 7 else ''}".strip()


def content(count: int = LINES) -> bytes:
    """Lines of which every tenth is refused by the model server."""
    return b"\n".join(request_line(f"r{index}", prompt(index)) for index in range(count))


async def check_ended_well(street: Street, batch: Any, count: int = LINES) -> None:
    """Every line once, in input order; one batch next door, which agrees; one ledger entry; nothing left there."""
    refused = [index for index in range(count) if index % 10 == 7]
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": count, "completed": count - len(refused), "failed": len(refused)}
    output, errors = [await street.ours.lines(batch[name]) for name in ("output_file_id", "error_file_id")]
    assert [line["custom_id"] for line in output] == [f"r{index}" for index in range(count) if index not in refused]
    assert [line["custom_id"] for line in errors] == [f"r{index}" for index in refused]
    assert {line["response"]["status_code"] for line in errors} == {400}
    for line in output:
        answer = line["response"]["body"]["choices"][0]["message"]["content"]
        assert answer == expected_answer(prompt(int(line["custom_id"][1:])))
    tokens = sum(line["response"]["body"]["usage"]["total_tokens"] for line in output)
    assert batch["usage"]["total_tokens"] == tokens

    (theirs,) = await upstream_batches(street.upstream, batch["id"])
    assert (theirs["status"], theirs["request_counts"]) == ("completed", batch["request_counts"])
    assert theirs["usage"] == batch["usage"]
    (entry,) = await street.ours.ledger(batch["id"])
    assert entry["usage"] == batch["usage"]
    expected = batch["usage"]["input_tokens"] * 1e-6 + batch["usage"]["output_tokens"] * 2e-6
    assert float(entry["cost"]) == pytest.approx(expected)
    await nothing_left(street.upstream)


async def nothing_left(upstream: System) -> None:
    async with asyncio.timeout(30):
        while (await upstream.call("GET", "/files"))["data"]:
            await asyncio.sleep(0.05)
