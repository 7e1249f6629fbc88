"""People beside a batch: what their requests take while a batch has the rest of the server.

    .venv/bin/python benchmarks/foreground.py [--seconds 30] [--svg docs/foreground.svg]

One simulated server with few slots. Bursts of foreground requests go to it directly, past Batchyard: alone, beside a
batch with a fixed number of requests in flight, and beside one whose limit follows the server. Prints the table, with
the machine's load at the time, and draws every foreground request.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from main_job import MODEL, input_lines

from batchyard.cli.running import running_stack

SLOTS = 64
LATENCY = 1.0
FIXED = 128
BURST, EVERY, OVER = 12, 5.0, 0.5  # requests, seconds from one burst to the next, seconds in which they come
WARM_UP = 10.0


@dataclass
class Outcome:
    """What was seen: when each foreground request was sent and what it took, in seconds; batch lines per second."""

    name: str
    latencies: list[tuple[float, float]] = field(default_factory=list)
    lines_per_second: float = 0.0
    taken_back: int = 0

    def quantile(self, share: float) -> float:
        ordered = sorted(latency for _, latency in self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def foreground(http: aiohttp.ClientSession, url: str, seconds: float, outcome: Outcome) -> None:
    began = time.perf_counter()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Are you there?"}]}

    async def ask(at: float) -> None:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        sent = time.perf_counter()
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            await response.read()
        outcome.latencies.append((sent - began, time.perf_counter() - sent))

    bursts = int(seconds / EVERY)
    await asyncio.gather(
        *(ask(burst * EVERY + number * OVER / BURST) for burst in range(bursts) for number in range(BURST))
    )


@asynccontextmanager
async def simulator() -> AsyncIterator[str]:
    sim = await asyncio.create_subprocess_exec(
        *("batchyard", "sim", "--port", "0", "--base-latency", str(LATENCY), "--max-num-seqs", str(SLOTS)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert sim.stdout is not None
    try:
        ready = (await sim.stdout.readline()).decode()
        yield next(word for word in ready.split() if word.startswith("http")).removesuffix("/v1")
    finally:
        sim.terminate()
        await sim.wait()


async def alone(seconds: float) -> Outcome:
    outcome = Outcome("no batch")
    async with simulator() as url, aiohttp.ClientSession() as http:
        await foreground(http, url, seconds, outcome)
    return outcome


async def beside_a_batch(name: str, seconds: float, **settings: str) -> Outcome:
    outcome = Outcome(name)
    with tempfile.TemporaryDirectory() as directory:
        async with simulator() as url, aiohttp.ClientSession() as http:
            config = Path(directory) / "config.yaml"
            config.write_text(
                f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n"
                f"      model: hosted_vllm/{MODEL}\n      api_base: {url}\n"
            )
            data = Path(directory) / "data"
            async with running_stack(data, config=config, environment=os.environ | settings) as stack:
                await submit(http, stack.url, lines=int((seconds + 2 * WARM_UP) * SLOTS / LATENCY))
                await asyncio.sleep(WARM_UP)
                before, began = await answered(http, stack.url), time.perf_counter()
                await foreground(http, url, seconds, outcome)
                done = await answered(http, stack.url) - before
                outcome.lines_per_second = done / (time.perf_counter() - began)
                async with http.get(f"{stack.url}/v1/fleet") as response:
                    outcome.taken_back = (await response.json())["data"][0]["counters"]["taken_back"]
    return outcome


async def submit(http: aiohttp.ClientSession, url: str, lines: int) -> None:
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", input_lines(lines), filename="in.jsonl")
    async with http.post(f"{url}/v1/files", data=form) as response:
        file = (await response.json())["id"]
    wish = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with http.post(f"{url}/v1/batches", json=wish) as response:
        response.raise_for_status()


async def answered(http: aiohttp.ClientSession, url: str) -> int:
    async with http.get(f"{url}/v1/fleet") as response:
        counters = (await response.json())["data"][0]["counters"]
    return int(counters["answered"])


def table(outcomes: list[Outcome]) -> str:
    baseline = outcomes[0].quantile(0.99)
    rows = ["| | p50 | p99 | p99 against no batch | batch lines/s | taken back |", "|---|---|---|---|---|---|"]
    for outcome in outcomes:
        p50, p99 = outcome.quantile(0.5), outcome.quantile(0.99)
        rows.append(
            f"| {outcome.name} | {p50:.2f} s | {p99:.2f} s | {p99 / baseline:.2f}× "
            f"| {outcome.lines_per_second:.0f} | {outcome.taken_back} |"
        )
    return "\n".join(rows)


def plot(outcomes: list[Outcome], seconds: float) -> str:
    """Every foreground request as a dot: when it was sent, what it took."""
    width, height, left, bottom, top = 720, 300, 50, 40, 30
    highest = max(latency for outcome in outcomes for _, latency in outcome.latencies) * 1.1
    colours = ("#5b8c5a", "#c4572e", "#2e6fc4")

    def x(at: float) -> float:
        return left + at / seconds * (width - left - 10)

    def y(latency: float) -> float:
        return height - bottom - latency / highest * (height - bottom - top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>text { font-size: 12px }</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left},{top} V{height - bottom} H{width - 10}" fill="none" stroke="#333"/>',
        f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">a foreground request was sent (s)</text>',
        f'<text x="{left}" y="{top - 12}">it took (s)</text>',
    ]
    step = 0.5 if highest < 4 else 1.0
    parts += [
        f'<text x="{left - 6}" y="{y(tick * step) + 4:.0f}" text-anchor="end">{tick * step:g}</text>'
        for tick in range(int(highest / step) + 1)
    ]
    parts += [
        f'<text x="{x(tick):.0f}" y="{height - bottom + 16}" text-anchor="middle">{tick}</text>'
        for tick in range(0, int(seconds) + 1, 5)
    ]
    for number, (outcome, colour) in enumerate(zip(outcomes, colours, strict=True)):
        parts.append(f'<circle cx="{200 + 170 * number}" cy="14" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{210 + 170 * number}" y="18">{outcome.name}</text>')
        parts += [
            f'<circle cx="{x(at):.1f}" cy="{y(latency):.1f}" r="2.5" fill="{colour}" fill-opacity="0.7"/>'
            for at, latency in outcome.latencies
        ]
    return "\n".join([*parts, "</svg>", ""])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="for which the bursts come, each time")
    parser.add_argument("--svg", type=Path, help="where to draw the requests")
    options = parser.parse_args()
    fixed = {"BATCHYARD_ADAPTIVE_CONCURRENCY": "false", "BATCHYARD_MAX_PARALLEL_REQUESTS": str(FIXED)}
    outcomes = [
        await alone(options.seconds),
        await beside_a_batch(f"batch, {FIXED} in flight", options.seconds, **fixed),
        await beside_a_batch("batch, adaptive", options.seconds),
    ]
    print(f"{SLOTS} slots, {LATENCY:g} s a request; {BURST} requests every {EVERY:g} s", end="; ")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(table(outcomes))
    if options.svg is not None:
        options.svg.write_text(plot(outcomes, options.seconds))


if __name__ == "__main__":
    asyncio.run(main())
