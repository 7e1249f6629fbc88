"""Who goes first: what a batch takes while a large one has all the servers, and what each tenant gets.

    .venv/bin/python benchmarks/fairness.py [--large 50000] [--rounds 3] [--runners 1 2]

One simulated server of `--slots` requests at a time; all runners together may have as many in flight, so that what is
measured is the order alone and no search for a limit. A tenant's large batch runs from the first row to the last. Each
row says what another batch took beside it, and the machine's load at the end.
"""

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from rig import add_runners, answered, client, config_for, create, ended, input_lines, simulator, submit, upload

from batchyard.cli.running import RunningStack, running_stack

SMALL = 100
HEAD_START = 500  # the default, after which a batch is none that has just begun
LASTING = 4 * HEAD_START
OTHERS = 8  # batches of one tenant beside the single one of another
MASTER_KEY = "sk-of-the-benchmark"
OPERATOR = {"authorization": f"Bearer {MASTER_KEY}"}
WINDOW, WINDOW_SECONDS = "1m", 60


@dataclass(frozen=True, slots=True)
class Timed:
    """What a batch took from its creation to its end, in seconds, and how it ended."""

    seconds: float
    status: str
    completed: int


async def timed(http: httpx.AsyncClient, lines: int, window: str = "24h") -> Timed:
    file = await upload(http, input_lines(lines))
    began = time.perf_counter()
    batch = await ended(http, await create(http, file, window), every=0.02)
    return Timed(time.perf_counter() - began, batch["status"], batch["request_counts"]["completed"])


async def small(http: httpx.AsyncClient, rounds: int) -> list[float]:
    """What small batches take, one after another."""
    return [(await timed(http, SMALL)).seconds for _ in range(rounds)]


async def tenant(stack: RunningStack) -> httpx.AsyncClient:
    """A client with the key of a team of its own."""
    async with httpx.AsyncClient(base_url=stack.url, headers=OPERATOR, trust_env=False) as http:
        team = (await http.post("/team/new", json={})).raise_for_status().json()["team_id"]
        made = await http.post("/key/generate", json={"team_id": team})
        return client(stack, made.raise_for_status().json()["key"])


def row(what: str, *columns: str) -> None:
    print("| " + " | ".join((what, *columns)) + " |", flush=True)


def row_of(what: str, took: list[float], alone: float) -> None:
    row(what, f"{median(took):.2f} s ({', '.join(f'{one:.2f}' for one in took)})", f"{median(took) / alone:.2f}×")


async def beside_a_large_batch(stack: RunningStack, options: argparse.Namespace) -> None:
    most = options.slots / options.latency
    async with await tenant(stack) as one, await tenant(stack) as other:
        alone = median(took := await small(one, options.rounds))
        row_of(f"{SMALL} lines alone", took, alone)
        large = await submit(one, input_lines(options.large))
        while await answered(one, large) < 2 * HEAD_START:
            await asyncio.sleep(0.1)
        row_of(f"{SMALL} lines behind the same tenant's {options.large:,}", await small(one, options.rounds), alone)
        row_of(f"{SMALL} lines behind another tenant's {options.large:,}", await small(other, options.rounds), alone)

        beside = [await submit(one, input_lines(LASTING)) for _ in range(OTHERS - 1)]
        share = LASTING / (await timed(other, LASTING)).seconds / most
        row(f"{LASTING:,} lines beside {OTHERS} batches of another tenant", f"{share:.0%} of the server", "")
        for batch in beside:
            await one.post(f"/batches/{batch}/cancel")

        count = int(0.6 * most * WINDOW_SECONDS)
        late = await timed(other, count, WINDOW)
        row(
            f"{count:,} lines with {WINDOW_SECONDS} s for them, {count / most * 2:.0f} s by halves",
            f"{late.status} after {late.seconds:.0f} s, {late.completed:,} lines",
            "",
        )
        assert (await one.get(f"/batches/{large}")).json()["status"] == "in_progress", "take a larger one"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=50_000, help="lines of the batch that has the server")
    parser.add_argument("--rounds", type=int, default=3, help="small batches in each row")
    parser.add_argument("--runners", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--slots", type=int, default=64, help="requests that the server works on at a time")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that it takes for each")
    options = parser.parse_args()
    for runners in options.runners:
        environment = {
            "BATCHYARD_ADAPTIVE_CONCURRENCY": "false",
            "BATCHYARD_MAX_PARALLEL_REQUESTS": str(options.slots // runners),
            "BATCHYARD_MASTER_KEY": MASTER_KEY,
            "BATCHYARD_CANCEL_GRACE": "0",
            "BATCHYARD_SHUTDOWN_GRACE": "0",
        }
        print(f"\nrunners: {runners}, {options.slots} slots, {options.latency:g} s a request\n")
        row("", "took", "against alone")
        row("---", "---", "---")
        with tempfile.TemporaryDirectory() as directory:
            async with simulator(options.latency, options.slots) as (server, _):
                config = config_for(directory, server)
                data = Path(directory) / "data"
                async with running_stack(data, config=config, environment=environment) as stack:
                    await add_runners(stack, runners - 1)
                    await beside_a_large_batch(stack, options)
        print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    asyncio.run(main())
