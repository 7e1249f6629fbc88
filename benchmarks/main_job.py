"""The main job, timed: one batch through a whole Batchyard on this machine, against the simulator.

    .venv/bin/python benchmarks/main_job.py [--lines 50000] [--latency 0.0]
    .venv/bin/python benchmarks/main_job.py --lines 20000 --fixed 32 64 128 256 --rounds 2

Prints lines per second, and for each process the processor's time for a line and the most memory that it has held.
Everything shares the machine's cores, the simulator and this client included, so the lines per second are a lower bound
of what the runner can drive.

With `--fixed` the job is also run with a fixed number of requests in flight, each in turn with the limit that Batchyard
finds by itself, in systems of their own before the same simulator; prints how the found limit compares with the best.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

from rig import client, config_for, cpu_seconds, create, ended, input_lines, peak_mib, simulator, upload

from batchyard.cli.running import RunningStack, running_stack


async def main_job(stack: RunningStack, content: bytes, count: int) -> float:
    """Run the job; lines per second from the batch's creation to its end."""
    async with client(stack) as http:
        began = time.perf_counter()
        file = await upload(http, content)
        uploaded = time.perf_counter()
        batch = await ended(http, await create(http, file))
        done = time.perf_counter()
        output = (await http.get(f"/files/{batch['output_file_id']}/content")).text.splitlines()
        fetched = time.perf_counter()
    ids = Counter(json.loads(line)["custom_id"] for line in output)
    exact = ids == Counter(f"r{index}" for index in range(count))
    print(f"{batch['status']}, {batch['request_counts']}, every custom_id exactly once: {exact}")
    print(f"upload {uploaded - began:6.2f} s   {len(content) / 1e6:.1f} MB")
    print(f"batch  {done - uploaded:6.2f} s   {count / (done - uploaded):,.0f} lines/s")
    print(f"fetch  {fetched - done:6.2f} s", flush=True)
    return count / (done - uploaded)


def environment(fixed: int | None) -> dict[str, str]:
    """The settings of a run: None for the limit that is found."""
    if fixed is None:
        return {}
    return {"BATCHYARD_ADAPTIVE_CONCURRENCY": "false", "BATCHYARD_MAX_PARALLEL_REQUESTS": str(fixed)}


def name_of(fixed: int | None) -> str:
    return "the limit is found" if fixed is None else f"{fixed} in flight"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that the simulator takes for an answer")
    parser.add_argument("--fixed", type=int, nargs="+", default=[], help="numbers in flight to compare with")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is run")
    options = parser.parse_args()
    content = input_lines(options.lines)
    speeds: dict[int | None, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        async with simulator(options.latency, 4096) as (server, _):
            config = config_for(directory, server)
            for number in range(options.rounds):
                for fixed in (None, *options.fixed):
                    data = Path(directory) / f"data-{number}-{fixed}"
                    async with running_stack(data, config=config, environment=environment(fixed)) as stack:
                        print(f"\n{name_of(fixed)}, load {os.getloadavg()[0]:.1f}")
                        pids = stack.pids
                        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
                        speeds[fixed].append(await main_job(stack, content, options.lines))
                        for name, pid in pids.items():
                            cpu = (cpu_seconds(pid) - before[name]) / options.lines * 1e6
                            print(f"{name:<12} {cpu:6.0f} µs CPU a line {peak_mib(pid):6.0f} MiB at most", flush=True)
    if options.fixed:
        print()
        for fixed, found in speeds.items():
            print(f"{name_of(fixed):<18} {median(found):8,.0f} lines/s  ({', '.join(f'{one:,.0f}' for one in found)})")
        best = max(options.fixed, key=lambda fixed: median(speeds[fixed]))
        print(f"against {name_of(best)}: {median(speeds[None]) / median(speeds[best]):.2f}")


if __name__ == "__main__":
    asyncio.run(main())
