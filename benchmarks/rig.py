"""What benchmarks stand on: a simulated server, its entry in config.yaml, batches over HTTP, what processes use."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from batchyard.cli.running import RunningStack
from batchyard.cli.waiting import until_found

MODEL = "my-vllm-model"
RUNNER = "batch-runner"
ENDED = {"completed", "failed", "expired", "cancelled"}


def input_lines(count: int) -> bytes:
    """Requests of about 250 bytes, no two alike."""
    lines = []
    for index in range(count):
        body = {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "Answer in one short sentence."},
                {"role": "user", "content": f"Item {index}: name a fish that lives deeper than {index % 4000} m."},
            ],
        }
        line = {"custom_id": f"r{index}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(line))
    return "\n".join(lines).encode()


@asynccontextmanager
async def simulator(latency: float, slots: int, *more: str) -> AsyncIterator[tuple[str, int]]:
    """A simulated server in a process of its own: its root and its process ID.

    Args:
        latency: Seconds that it takes for an answer.
        slots: Requests that it works on at a time, as vLLM's --max-num-seqs has it.
        more: Further options of `batchyard sim`.
    """
    sim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batchyard.cli", "sim", "--port", "0"),
        *("--base-latency", str(latency), "--max-num-seqs", str(slots), *more),
        stdout=asyncio.subprocess.PIPE,
    )
    assert sim.stdout is not None
    try:
        ready = (await sim.stdout.readline()).decode()
        yield next(word for word in ready.split() if word.startswith("http")).removesuffix("/v1"), sim.pid
    finally:
        sim.terminate()
        await sim.wait()


def config_for(directory: str, *servers: str, served: str = MODEL, **params: object) -> Path:
    """A config.yaml with one model at these servers, written into a directory.

    Args:
        served: What the servers call the model.
        params: More of the `litellm_params` of each.
    """
    config = Path(directory) / "config.yaml"
    entries = [
        {"model_name": MODEL, "litellm_params": {"model": f"hosted_vllm/{served}", "api_base": server, **params}}
        for server in servers
    ]
    config.write_text(json.dumps({"model_list": entries}))  # JSON is YAML
    return config


async def add_runners(stack: RunningStack, count: int) -> None:
    """Start as many more runners, as other machines would have them, and wait until all are there."""
    first = stack.supervisor._kept[RUNNER].program  # noqa: SLF001
    logs = [stack.layout.log(RUNNER)]
    for number in range(2, count + 2):
        name = f"{RUNNER}-{number}"
        logs.append(stack.layout.log(name))
        stack.supervisor.start(replace(first, name=name, log=logs[-1]))
    await until_found(lambda: all(log.exists() and "service.started" in log.read_text() for log in logs) or None)


def client(stack: RunningStack, key: str | None = None) -> httpx.AsyncClient:
    """A client of the API, as whoever has the key."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=f"{stack.url}/v1", headers=headers, timeout=300, trust_env=False)


async def upload(http: httpx.AsyncClient, content: bytes) -> str:
    """The ID of a new file."""
    response = await http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
    return str(response.raise_for_status().json()["id"])


async def create(http: httpx.AsyncClient, file: str, window: str = "24h") -> str:
    """The ID of a new batch of a file."""
    order = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": window}
    return str((await http.post("/batches", json=order)).raise_for_status().json()["id"])


async def submit(http: httpx.AsyncClient, content: bytes, window: str = "24h") -> str:
    """Upload lines and create a batch of them; its ID."""
    return await create(http, await upload(http, content), window)


async def ended(http: httpx.AsyncClient, batch_id: str, every: float = 0.1) -> dict[str, Any]:
    """Wait for a batch's end, looking `every` so many seconds; what it is then."""
    while True:
        response = await http.get(f"/batches/{batch_id}")
        if response.status_code == 200:  # a machine that is too busy may not answer in time
            batch: dict[str, Any] = response.json()
            if batch["status"] in ENDED:
                return batch
        await asyncio.sleep(every)


async def answered(http: httpx.AsyncClient, batch_id: str) -> int:
    """How many lines of a batch have a result."""
    return int((await http.get(f"/batches/{batch_id}")).json()["request_counts"]["completed"])


def cpu_seconds(*pids: int) -> float:
    """The processor's time that processes have had so far (Linux; nothing elsewhere)."""
    ticks = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has held."""
    return _status_mib(pid, "VmHWM:")


def resident_mib(pid: int) -> float:
    """The resident memory of a process now."""
    return _status_mib(pid, "VmRSS:")


def _status_mib(pid: int, name: str) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition(name)[2].split()[0]) / 1024
