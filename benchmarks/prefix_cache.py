"""How much of the prompts a server finds in its prefix cache, with and without the order that Batchyard gives lines.

    .venv/bin/python benchmarks/prefix_cache.py --vllm http://127.0.0.1:8000 [--lines 400]
    .venv/bin/python benchmarks/prefix_cache.py --simulators 2 [--lines 4000] [--cache-blocks 400]
    .venv/bin/python benchmarks/prefix_cache.py --simulators 2 --inputs shared --affinity --prefixes 400

Two inputs: lines that begin with one of several system prompts, shuffled, and lines that have nothing in common. Each
is run with the order and without it; with `--affinity` also with the order alone, lines that begin alike going to any
server. Prints what the servers say about their cache, and lines per second. Each run has words of its own, so that none
profits by another one's cache.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path

import httpx
from rig import MODEL, client, config_for, create, ended, upload

from batchyard.cli.running import RunningStack, running_stack
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim


class How(StrEnum):
    AS_THEY_COME = "as they come"
    SORTED_ALONE = "sorted, no affinity"
    ARRANGED = "arranged"


WORDS = "the a of in sea rock wind door light paper green seven under before call send keep".split()  # noqa: SIM905


def input_lines(options: argparse.Namespace, rng: random.Random, *, shared: bool) -> bytes:
    """Requests that all have a long system prompt: one of `--prefixes`, or each its own."""
    systems = [words(rng, options.prefix_words) for _ in range(options.prefixes if shared else options.lines)]
    lines = []
    for index in range(options.lines):
        messages = [
            {"role": "system", "content": systems[rng.randrange(options.prefixes) if shared else index]},
            {"role": "user", "content": f"Item {index}: {words(rng, 10)}?"},
        ]
        body = {"model": MODEL, "messages": messages, "max_tokens": options.max_tokens}
        lines.append({"custom_id": f"r{index}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    return "\n".join(map(json.dumps, lines)).encode()


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


async def cache_counts(servers: list[str]) -> list[tuple[float, float]]:
    """For each server the tokens that it has looked up in its cache so far, and found."""
    counts = []
    async with httpx.AsyncClient(trust_env=False) as http:
        for server in servers:
            text = (await http.get(f"{server}/metrics")).text
            counts.append((counted(text, "queries"), counted(text, "hits")))
    return counts


def counted(text: str, what: str) -> float:
    name = f"vllm:prefix_cache_{what}_total"
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def run(stack: RunningStack, content: bytes) -> float:
    """Run a batch; seconds from its creation to its end."""
    async with client(stack) as http:
        file = await upload(http, content)
        began = time.perf_counter()
        batch = await ended(http, await create(http, file), every=0.05)
        assert batch["request_counts"]["completed"] == batch["request_counts"]["total"], batch
        return time.perf_counter() - began


async def measure(options: argparse.Namespace, servers: list[str], served: str, *, shared: bool, how: How) -> None:
    content = input_lines(options, random.Random(f"{options.seed} {shared} {how}"), shared=shared)
    with tempfile.TemporaryDirectory() as directory:
        config = config_for(directory, *servers, served=served, max_parallel_requests=options.in_flight)
        environment = {
            "BATCHYARD_ARRANGE_PREFIXES": str(how is not How.AS_THEY_COME),
            "BATCHYARD_PREFIX_AFFINITY": str(how is not How.SORTED_ALONE),
            "BATCHYARD_SHARD_LINES": str(options.shard_lines),
            "BATCHYARD_SHARD_BYTES": str(options.shard_bytes),
        }
        async with running_stack(Path(directory) / "data", config=config, environment=environment) as stack:
            before = await cache_counts(servers)
            seconds = await run(stack, content)
            after = await cache_counts(servers)
    queries = sum(now[0] - was[0] for was, now in zip(before, after, strict=True))
    hits = sum(now[1] - was[1] for was, now in zip(before, after, strict=True))
    print(
        f"{'shared' if shared else 'no'} beginnings, {how}:".ljust(42),
        f"{hits / queries:6.1%} of {queries:,.0f} prompt tokens cached, {options.lines / seconds:7,.1f} lines/s,",
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", action="append", default=[], help="the root of a server; may be given several times")
    parser.add_argument("--simulators", type=int, default=0, help="simulated servers to start instead")
    parser.add_argument("--cache-blocks", type=int, default=400, help="blocks of 16 tokens that a simulator caches")
    parser.add_argument("--prompt-token-latency", type=float, default=0.00005, help="seconds of a simulator")
    parser.add_argument("--lines", type=int, default=4000)
    parser.add_argument("--prefixes", type=int, default=20)
    parser.add_argument("--prefix-words", type=int, default=600)
    parser.add_argument("--max-tokens", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=16, help="requests in flight to one server")
    parser.add_argument("--shard-lines", type=int, default=500)
    parser.add_argument("--shard-bytes", type=int, default=4 * 2**20)
    parser.add_argument("--inputs", nargs="+", choices=("shared", "unshared"), default=("shared", "unshared"))
    parser.add_argument("--affinity", action="store_true", help="measure the order without the affinity as well")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    async with AsyncExitStack() as exits:
        servers = [server.rstrip("/").removesuffix("/v1") for server in options.vllm]
        sim = SimSettings(
            cache_blocks=options.cache_blocks, prompt_token_latency=options.prompt_token_latency, base_latency=0.01
        )
        servers += [(await exits.enter_async_context(running_sim(sim))).url for _ in range(options.simulators)]
        async with httpx.AsyncClient(trust_env=False) as http:
            served = (await http.get(f"{servers[0]}/v1/models")).json()["data"][0]["id"]
        for kind in options.inputs:
            for how in How:
                if how is not How.SORTED_ALONE or options.affinity:
                    await measure(options, servers, served, shared=kind == "shared", how=how)


if __name__ == "__main__":
    asyncio.run(main())
