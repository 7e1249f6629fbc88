"""The main job, timed: one batch through a whole Batchyard on this machine, against the simulator.

    .venv/bin/python benchmarks/main_job.py [--lines 50000] [--latency 0.0]

Prints lines per second, and the most memory that each process has held. Everything shares the machine's cores, the
simulator and this client included, so the figure is a lower bound of what the runner can drive.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

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


async def main_job(stack: RunningStack, content: bytes, count: int) -> None:
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
    print(f"fetch  {fetched - done:6.2f} s")


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that the simulator takes for an answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sim = await asyncio.create_subprocess_exec(
            *("batchyard", "sim", "--port", "0", "--base-latency", str(options.latency)),
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
        try:
            async with running_stack(Path(directory) / "data", config=config) as stack:
                await main_job(stack, input_lines(options.lines), options.lines)
                for name, pid in stack.pids.items():
                    print(f"peak memory of {name:<12} {peak_mib(pid):6.0f} MiB")
        finally:
            sim.terminate()
            await sim.wait()


if __name__ == "__main__":
    asyncio.run(main())
