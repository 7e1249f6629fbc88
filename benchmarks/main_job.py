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
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import httpx

from batchyard.cli.running import RunningStack, running_stack

MODEL = "my-vllm-model"
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


async def main_job(stack: RunningStack, content: bytes, count: int) -> float:
    """Run the job; lines per second from the batch's creation to its end."""
    async with httpx.AsyncClient(base_url=f"{stack.url}/v1", timeout=300, trust_env=False) as http:
        began = time.perf_counter()
        upload = await http.post("/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        uploaded = time.perf_counter()
        created = await http.post(
            "/batches",
            json={
                "input_file_id": upload.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        batch = created.json()
        while batch["status"] not in ENDED:
            await asyncio.sleep(0.1)
            batch = (await http.get(f"/batches/{batch['id']}")).json()
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


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """The processor's time that a process has had so far."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


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
    with tempfile.TemporaryDirectory() as directory:
        sim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "batchyard.cli", "sim", "--port", "0", "--base-latency", str(options.latency)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert sim.stdout is not None
        ready = (await sim.stdout.readline()).decode()
        api_base = next(word for word in ready.split() if word.startswith("http"))
        config = Path(directory) / "config.yaml"
        config.write_text(
            f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n"
            f"      model: hosted_vllm/{MODEL}\n      api_base: {api_base}\n"
        )
        content = input_lines(options.lines)
        speeds: dict[int | None, list[float]] = defaultdict(list)
        try:
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
        finally:
            sim.terminate()
            await sim.wait()
    if options.fixed:
        print()
        for fixed, found in speeds.items():
            print(f"{name_of(fixed):<18} {median(found):8,.0f} lines/s  ({', '.join(f'{one:,.0f}' for one in found)})")
        best = max(options.fixed, key=lambda fixed: median(speeds[fixed]))
        print(f"against {name_of(best)}: {median(speeds[None]) / median(speeds[best]):.2f}")


if __name__ == "__main__":
    asyncio.run(main())
