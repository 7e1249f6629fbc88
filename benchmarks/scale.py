"""What more runners bring: the same batch with one, two and three of them, against one simulated server.

    .venv/bin/python benchmarks/scale.py [--runners 1 2 3 4] [--lines 3000] [--in-flight 16] [--server 48]

Two tables. In the first each runner may have `--in-flight` requests at the server, of which each takes `--latency`
seconds, and the server works on `--server` of them at a time, as vLLM's --max-num-seqs has it: so the machine is idle,
and what is measured is whether runners work beside each other. The most there can be is
min(runners x in-flight, server) / latency. In the second the server answers at once and nothing limits the runners:
then the machine's cores are the limit, and the simulator, NATS and the client take their share of them.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from main_job import ENDED, MODEL, input_lines

from batchyard.cli.running import RunningStack, running_stack
from batchyard.cli.waiting import until_found

RUNNER = "batch-runner"


@dataclass(frozen=True, slots=True)
class Measured:
    """One batch's way through: seconds of wall time, and CPU seconds of all processes of each kind."""

    seconds: float
    cpu: dict[str, float]


@asynccontextmanager
async def simulator(latency: float, capacity: int, *more: str) -> AsyncIterator[tuple[str, int]]:
    """A simulated server in a process of its own: its URL and its process ID."""
    sim = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batchyard.cli", "sim", "--port", "0"),
        *("--base-latency", str(latency), "--max-num-seqs", str(capacity), *more),
        stdout=asyncio.subprocess.PIPE,
    )
    assert sim.stdout is not None
    try:
        ready = (await sim.stdout.readline()).decode()
        yield next(word for word in ready.split() if word.startswith("http")), sim.pid
    finally:
        sim.terminate()
        await sim.wait()


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def add_runners(stack: RunningStack, count: int) -> None:
    """Start as many more runners, as other machines would have them."""
    first = stack.supervisor._kept[RUNNER].program  # noqa: SLF001
    for number in range(2, count + 2):
        name = f"{RUNNER}-{number}"
        stack.supervisor.start(replace(first, name=name, log=stack.layout.log(name)))


def started(stack: RunningStack, runners: int) -> bool:
    logs = [stack.layout.log(RUNNER if number == 1 else f"{RUNNER}-{number}") for number in range(1, runners + 1)]
    return all(log.exists() and "service.started" in log.read_text() for log in logs)


async def run_batch(stack: RunningStack, content: bytes, lines: int) -> float:
    """Seconds from the batch's creation to its end."""
    async with httpx.AsyncClient(base_url=f"{stack.url}/v1", timeout=300, trust_env=False) as http:
        upload = await http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        order = {"input_file_id": upload.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        began = time.perf_counter()
        batch = (await http.post("/batches", json=order)).json()
        while batch["status"] not in ENDED:
            await asyncio.sleep(0.1)
            batch = (await http.get(f"/batches/{batch['id']}")).json()
        seconds = time.perf_counter() - began
    assert batch["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, batch
    return seconds


async def measured(api_base: str, sim_pid: int, runners: int, lines: int, environment: dict[str, str]) -> Measured:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.yaml"
        config.write_text(
            f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n"
            f"      model: hosted_vllm/{MODEL}\n      api_base: {api_base}\n"
        )
        async with running_stack(Path(directory) / "data", config=config, environment=environment) as stack:
            add_runners(stack, runners - 1)
            await until_found(lambda: started(stack, runners) or None)
            pids = {**stack.pids, "simulator": sim_pid}
            before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            seconds = await run_batch(stack, input_lines(lines), lines)
            used: dict[str, float] = {}
            for name, pid in pids.items():
                kind = RUNNER if name.startswith(RUNNER) else name
                used[kind] = used.get(kind, 0.0) + cpu_seconds(pid) - before[name]
    return Measured(seconds, used)


async def table(
    title: str,
    counts: list[int],
    lines: int,
    latency: float,
    capacity: int,
    environment: dict[str, str],
    in_flight: int,
) -> None:
    print(f"\n{title}")
    print("runners   lines/s   times one   most possible   CPU s: runners   simulator   the rest")
    first = 0.0
    async with simulator(latency, capacity) as (api_base, pid):
        for runners in counts:
            result = await measured(api_base, pid, runners, lines, environment)
            rate = lines / result.seconds
            first = first or rate
            most = f"{min(runners * in_flight, capacity) / latency:,.0f}" if latency else "-"
            rest = sum(result.cpu.values()) - result.cpu[RUNNER] - result.cpu["simulator"]
            print(
                f"{runners:7} {rate:9,.0f} {rate / first:11.2f} {most:>15} "
                f"{result.cpu[RUNNER]:16.1f} {result.cpu['simulator']:11.1f} {rest:10.1f}",
                flush=True,
            )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--lines", type=int, default=3000, help="lines of the first table; 0: without it")
    parser.add_argument("--in-flight", type=int, default=16, help="requests that each runner may have at the server")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that the server takes for an answer")
    parser.add_argument("--server", type=int, default=48, help="requests that the server works on at a time")
    parser.add_argument("--cpu-lines", type=int, default=20_000, help="lines of the second table; 0: without it")
    options = parser.parse_args()
    limited = {
        "BATCHYARD_MAX_PARALLEL_REQUESTS": str(options.in_flight),
        "BATCHYARD_ADAPTIVE_CONCURRENCY": "false",
        "BATCHYARD_SHARD_LINES": "50",
    }
    if options.lines:
        title = (
            f"{options.in_flight} requests in flight for each runner, {options.latency:g} s for an answer, "
            f"{options.server} at a time at the server"
        )
        await table(title, options.runners, options.lines, options.latency, options.server, limited, options.in_flight)
    if options.cpu_lines:
        title = f"No limit but the {os.cpu_count()} cores of this machine"
        await table(title, options.runners, options.cpu_lines, 0.0, 4096, {}, 0)


if __name__ == "__main__":
    asyncio.run(main())
