"""One file of requests before a real vLLM: a client with a fixed number in flight, Batchyard, and `vllm run-batch`.

    PYTHONPATH=tests .venv/bin/python benchmarks/real_vllm.py --serve 'vllm serve MODEL --port {port}' \
        --run-batch 'vllm run-batch --model MODEL -i {input} -o {output}'
    PYTHONPATH=tests .venv/bin/python benchmarks/real_vllm.py --vllm http://127.0.0.1:8000

First the sweep: an aiohttp client with 1, 2, 4 … 512 requests in flight, each with a sample of the lines. The best of
these then take turns with Batchyard over the whole file, as often as `--rounds` says. Batchyard starts anew each time,
without a hint of what the server takes; its time goes from the first byte of the upload to the last byte of the
results. Of run-batch's time only the batch counts, not its start. Prints the medians: of the seconds, of how they
compare with the best client's in the same round, and of the processor's time that the client or Batchyard's five
processes took for a line.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
from rig import MODEL, client, config_for, cpu_seconds, ended, submit

from batchyard.cli.running import running_stack
from support.vllm import VllmServer, served_model

WORDS = "the a of in sea rock wind door light paper green seven under before call send keep".split()  # noqa: SIM905


@dataclass(frozen=True)
class Run:
    """What a run over `lines` lines took, in seconds, and the seconds of the processor that the client had of that."""

    lines: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.lines / self.seconds


def bodies(options: argparse.Namespace, model: str) -> list[dict[str, object]]:
    """Requests with prompts and answers of many lengths, the same ones in every run."""
    rng = random.Random(options.seed)
    least, most = options.tokens
    found = []
    for index in range(options.lines):
        words = " ".join(rng.choices(WORDS, k=rng.randrange(10, 60)))
        body = {"model": model, "messages": [{"role": "user", "content": f"Item {index}: {words}?"}]}
        found.append(body | {"max_tokens": rng.randint(least, most), "temperature": 0, "ignore_eos": True})
    return found


def jsonl(requests: Sequence[dict[str, object]], salt: str) -> bytes:
    """An input file. No run profits by what another one has left in the server's cache of prompts."""
    return b"\n".join(
        json.dumps(
            {
                "custom_id": f"r{index}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body | {"cache_salt": salt},
            }
        ).encode()
        for index, body in enumerate(requests)
    )


async def by_client(url: str, content: bytes, in_flight: int) -> Run:
    """Send every line, as many at a time, and keep the answers as lines of a result file."""
    lines = iter(content.splitlines())
    results: list[bytes] = []
    began, cpu = time.perf_counter(), time.process_time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def work() -> None:
            for line in lines:
                request = json.loads(line)
                async with http.post(f"{url}{request['url']}", json=request["body"]) as response:
                    response.raise_for_status()
                    result = {"custom_id": request["custom_id"], "response": await response.json()}
                results.append(json.dumps(result).encode())

        await asyncio.gather(*(work() for _ in range(in_flight)))
    return Run(len(results), time.perf_counter() - began, time.process_time() - cpu)


async def by_batchyard(url: str, served: str, content: bytes, *, trace: bool) -> Run:
    """Run the file as a batch through a Batchyard that has just been started."""
    with tempfile.TemporaryDirectory() as directory:
        config = config_for(directory, url, served=served)
        async with (
            running_stack(Path(directory) / "data", config=config) as stack,
            client(stack) as http,
        ):
            before, began = cpu_seconds(*stack.pids.values()), time.perf_counter()
            watching = asyncio.create_task(show(http, began)) if trace else None
            batch = await ended(http, await submit(http, content), every=0.2)
            if watching is not None:
                watching.cancel()
            results = (await http.get(f"/files/{batch['output_file_id']}/content")).content.splitlines()
            return Run(len(results), time.perf_counter() - began, cpu_seconds(*stack.pids.values()) - before)


async def show(http: httpx.AsyncClient, began: float) -> None:
    """Say five times a second what the limit is and why, unless that has just been said, until cancelled."""
    shown = ""
    while True:
        (seen,) = (await http.get("/fleet")).json()["data"]
        told = f"limit {seen['limit']} ({seen['reason']})"
        if told != shown:
            at, answered = time.perf_counter() - began, seen["counters"]["answered"]
            print(f"  {at:6.2f} s  {answered:5} answered, {told}, load {seen['load']}", flush=True)
        shown = told
        await asyncio.sleep(0.2)


async def by_run_batch(command: str, content: bytes) -> Run:
    """Let vLLM run the file by itself; what it takes from its progress bar's first sign to the last."""
    with tempfile.TemporaryDirectory() as directory:
        source, result = Path(directory) / "in.jsonl", Path(directory) / "out.jsonl"
        source.write_bytes(content)
        process = await asyncio.create_subprocess_shell(
            command.replace("{input}", str(source)).replace("{output}", str(result)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        seen, began, ended = b"", 0.0, 0.0
        total = content.count(b"\n") + 1
        while part := await process.stderr.read(65536):
            seen = (seen + part)[-65536:]
            if not began and b"Running batch" in seen:
                began = time.perf_counter()
            if not ended and f"{total}/{total}".encode() in seen:
                ended = time.perf_counter()
        if await process.wait() or not ended:
            raise SystemExit(f"run-batch failed: {seen.decode(errors='replace')[-3000:]}")
        return Run(len(result.read_bytes().splitlines()), ended - began, 0.0)


def salts() -> Iterator[str]:
    began = time.time_ns()
    number = 0
    while True:
        yield f"{began}-{number}"
        number += 1


async def compare(options: argparse.Namespace, url: str) -> dict[str, list[Run]]:
    """All runs, by what is to be compared."""
    served, _ = served_model(url)
    requests, salt = bodies(options, served), salts()
    as_batch = [body | {"model": MODEL} for body in requests]
    print("| in flight | lines | seconds | lines/s |\n|---|---|---|---|")
    await by_client(url, jsonl(requests[:200], next(salt)), 32)  # the server's first requests are slower
    swept: dict[int, float] = {}
    for in_flight in options.sweep:
        sample = requests[: max(options.sample * in_flight, options.sample * 4)]
        run = await by_client(url, jsonl(sample, next(salt)), in_flight)
        swept[in_flight] = run.rate
        print(f"| {in_flight} | {run.lines} | {run.seconds:.2f} | {run.rate:.0f} |", flush=True)
    best = sorted(swept, key=lambda one: swept[one])[-options.best :]
    runs: dict[str, list[Run]] = defaultdict(list)
    for number in range(options.rounds):
        for in_flight in best:
            run = await by_client(url, jsonl(requests, next(salt)), in_flight)
            runs[f"aiohttp, {in_flight} in flight"].append(run)
        content = jsonl(as_batch, next(salt))
        runs["Batchyard"].append(await by_batchyard(url, served, content, trace=options.trace and not number))
        print(f"\nafter {number + 1} of {options.rounds} rounds\n\n{table(runs)}", flush=True)
    return runs


def table(runs: dict[str, list[Run]]) -> str:
    medians = {name: statistics.median(run.seconds for run in of) for name, of in runs.items()}
    best = runs[min((name for name in runs if name.startswith("aiohttp")), key=lambda name: medians[name])]
    rows = [
        "| | seconds, each run | median | against the best client | lines/s | CPU per line |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in runs.items():
        each = ", ".join(f"{run.seconds:.2f}" for run in of)
        against = statistics.median(run.seconds / other.seconds for run, other in zip(of, best, strict=False))
        cpu = statistics.median(run.cpu / run.lines for run in of) * 1e3
        rows.append(
            f"| {name} | {each} | {medians[name]:.2f} | {against:.2f}× | {of[0].lines / medians[name]:.0f} "
            f"| {f'{cpu:.2f} ms' if cpu else ''} |"
        )
    return "\n".join(rows)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--vllm", metavar="URL", help="the root of a server that runs")
    server.add_argument("--serve", metavar="COMMAND", help="starts one; {port} stands for its port")
    parser.add_argument("--run-batch", metavar="COMMAND", help="vLLM's own batch; {input} and {output} stand for files")
    parser.add_argument("--lines", type=int, default=2_000)
    parser.add_argument("--tokens", type=int, nargs=2, default=(8, 48), help="fewest and most tokens of an answer")
    parser.add_argument("--sweep", type=int, nargs="+", default=[2**power for power in range(10)], help="in flight")
    parser.add_argument("--sample", type=int, default=30, help="lines of the sweep for each request in flight")
    parser.add_argument("--best", type=int, default=2, help="of the sweep, how many go on to the rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="show how the limit is found in the first round")
    options = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # a server of our own must not stay
    with ExitStack() as exits:
        url = (options.vllm or "").rstrip("/").removesuffix("/v1")
        if options.serve:
            directory = exits.enter_context(tempfile.TemporaryDirectory())
            own = VllmServer(options.serve, Path(directory) / "vllm.log")
            exits.callback(own.close)
            await asyncio.to_thread(own.start)
            url = own.url
        runs = await compare(options, url)
    if options.run_batch:
        requests = bodies(options, MODEL)
        runs["vllm run-batch"] = [await by_run_batch(options.run_batch, jsonl(requests, "run-batch"))]
    print(f"\n{options.lines} lines, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n{table(runs)}")


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        asyncio.run(main())
