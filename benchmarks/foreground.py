"""People beside a batch: what their requests take while a batch has the rest of the server.

    .venv/bin/python benchmarks/foreground.py [--seconds 30] [--svg docs/foreground.svg]

One simulated server with few slots. Bursts of foreground requests go to it directly, past Batchyard: alone, beside a
batch with a fixed number of requests in flight, and beside one whose limit follows the server. Prints the table, with
the machine's load at the time, and draws over time what the batch gets done and what the foreground requests take.
"""

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from charts import BLUE, GREEN, RED, Chart, Point, page
from rig import MODEL, client, config_for, input_lines, simulator, submit

from batchyard.cli.running import running_stack

SLOTS = 64
LATENCY = 1.0
FIXED = 128
BURST, EVERY, OVER = 12, 5.0, 0.5  # requests, seconds from one burst to the next, seconds in which they come
WARM_UP = 10.0
WINDOW = 2 * LATENCY  # seconds over which the batch's speed is drawn


@dataclass
class Outcome:
    """What was seen: when each foreground request was sent and what it took, in seconds; batch lines per second.

    `answered` is what the batch had got done, and when, in the seconds of the foreground.
    """

    name: str
    latencies: list[Point] = field(default_factory=list)
    answered: list[Point] = field(default_factory=list)
    lines_per_second: float = 0.0
    taken_back: int = 0

    def quantile(self, share: float) -> float:
        ordered = sorted(latency for _, latency in self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def slowest_by_burst(self) -> list[Point]:
        """When each burst began, and what the slowest of its requests took: of so few, the 99th percentile."""
        slowest: dict[int, float] = {}
        for sent, latency in self.latencies:
            burst = int(sent / EVERY)
            slowest[burst] = max(slowest.get(burst, 0.0), latency)
        return [(burst * EVERY, latency) for burst, latency in sorted(slowest.items())]

    def speed(self) -> list[Point]:
        """The batch's lines per second, over a window that moves along: whole seconds, since answers come in waves."""
        points = []
        for at, done in self.answered:
            since, before = min(self.answered, key=lambda seen: abs(seen[0] - (at - WINDOW)))
            if at - since > WINDOW / 2:
                points.append((at, (done - before) / (at - since)))
        return points


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


async def alone(seconds: float) -> Outcome:
    outcome = Outcome("no batch")
    async with simulator(LATENCY, SLOTS) as (url, _), aiohttp.ClientSession() as http:
        await foreground(http, url, seconds, outcome)
    return outcome


async def beside_a_batch(name: str, seconds: float, **settings: str) -> Outcome:
    outcome = Outcome(name)
    with tempfile.TemporaryDirectory() as directory:
        async with simulator(LATENCY, SLOTS) as (url, _), aiohttp.ClientSession() as http:
            config = config_for(directory, url)
            data = Path(directory) / "data"
            async with running_stack(data, config=config, environment=os.environ | settings) as stack:
                async with client(stack) as batches:
                    await submit(batches, input_lines(int((seconds + 2 * WARM_UP) * SLOTS / LATENCY)))
                await asyncio.sleep(WARM_UP)
                watching = asyncio.create_task(watch(http, stack.url, outcome))
                try:
                    await foreground(http, url, seconds, outcome)
                finally:
                    watching.cancel()
                (first, before), (last, done) = outcome.answered[0], outcome.answered[-1]
                outcome.lines_per_second = (done - before) / (last - first)
                async with http.get(f"{stack.url}/v1/fleet") as response:
                    outcome.taken_back = (await response.json())["data"][0]["counters"]["taken_back"]
    return outcome


async def watch(http: aiohttp.ClientSession, url: str, outcome: Outcome) -> None:
    """Note twice a second what the batch has got done, until cancelled."""
    began = time.perf_counter()
    while True:
        async with http.get(f"{url}/v1/fleet") as response:
            counters = (await response.json())["data"][0]["counters"]
        outcome.answered.append((time.perf_counter() - began, counters["answered"]))
        await asyncio.sleep(0.5)


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
    """Above what the batch gets done, below what the foreground requests take; their bursts are shaded."""
    bursts = [(number * EVERY, number * EVERY + OVER) for number in range(int(seconds / EVERY))]
    highest = max(latency for outcome in outcomes for _, latency in outcome.latencies) * 1.1
    speed = Chart("batch, lines/s", seconds, SLOTS / LATENCY * 1.25, bursts)
    latency = Chart(
        "foreground: every request (dots) and the p99 of each burst (lines), seconds", seconds, highest, bursts
    )
    for outcome, colour in zip(outcomes, (GREEN, RED, BLUE), strict=True):
        if outcome.answered:
            speed.line(outcome.name, outcome.speed(), colour)
        latency.dots(outcome.latencies, colour)
        latency.line(outcome.name, outcome.slowest_by_burst(), colour)
    return page(speed, latency)


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
