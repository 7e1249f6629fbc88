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
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rig import RUNNER, add_runners, client, config_for, cpu_seconds, create, ended, input_lines, simulator, upload

from batchyard.cli.running import RunningStack, running_stack


@dataclass(frozen=True, slots=True)
class Measured:
    """One batch's way through: seconds of wall time, and CPU seconds of all processes of each kind."""

    seconds: float
    cpu: dict[str, float]


async def run_batch(stack: RunningStack, content: bytes, lines: int) -> float:
    """Seconds from the batch's creation to its end."""
    async with client(stack) as http:
        file = await upload(http, content)
        began = time.perf_counter()
        batch = await ended(http, await create(http, file))
        seconds = time.perf_counter() - began
    assert batch["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, batch
    return seconds


async def measured(server: str, sim_pid: int, runners: int, lines: int, environment: dict[str, str]) -> Measured:
    with tempfile.TemporaryDirectory() as directory:
        config = config_for(directory, server)
        async with running_stack(Path(directory) / "data", config=config, environment=environment) as stack:
            await add_runners(stack, runners - 1)
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
    async with simulator(latency, capacity) as (server, pid):
        for runners in counts:
            result = await measured(server, pid, runners, lines, environment)
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
