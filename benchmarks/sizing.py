"""What one batch, one line and one open shard cost, measured: the figures of docs/sizing.md.

    .venv/bin/python benchmarks/sizing.py [--lines 20000] [--batches 300] [--prompt-bytes 400] [--answer-tokens 100]

Everything runs on this machine, against the simulator. CPU times are those that the kernel has accounted to each
process, so other work on the machine disturbs them little.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import httpx
import nats
from rig import (
    ENDED,
    MODEL,
    RUNNER,
    answered,
    client,
    config_for,
    cpu_seconds,
    ended,
    peak_mib,
    resident_mib,
    simulator,
    submit,
)

from batchyard.cli.running import RunningStack, running_stack
from batchyard.cli.stack import NATS
from batchyard.common.messaging.topology import (
    BATCHES_BUCKET,
    CREATIONS_BUCKET,
    EVENTS,
    FILES_BUCKET,
    PROGRESS_BUCKET,
    SHARDS_BUCKET,
    STEPS,
    WORK,
)

BUCKETS = {
    name: f"KV_{name}" for name in (FILES_BUCKET, BATCHES_BUCKET, CREATIONS_BUCKET, SHARDS_BUCKET, PROGRESS_BUCKET)
}
SHARD_LINES = 500
STREAMS = {**BUCKETS, "events": EVENTS, "work": WORK, "steps": STEPS}


def lines_of(count: int, prompt_bytes: int) -> bytes:
    """Requests whose prompts have about as many bytes, no two alike."""
    filler = "The quick brown fox jumps over the lazy dog. " * (prompt_bytes // 45 + 1)
    lines = []
    for index in range(count):
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"{index} {filler}"[:prompt_bytes]}]}
        line = {"custom_id": f"r{index}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(line))
    return "\n".join(lines).encode()


def sockets(pid: int) -> int:
    """The sockets that a process has open."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def stored(folder: Path) -> int:
    """The bytes of the files below a folder."""
    return sum((Path(where) / name).stat().st_size for where, _, names in os.walk(folder) for name in names)


def ledger_bytes(stack: RunningStack) -> int:
    """The size of the ledger, what its log still holds included."""
    with closing(sqlite3.connect(f"file:{stack.layout.ledger}?mode=ro", uri=True)) as ledger:
        return int(
            ledger.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
        )


async def in_streams(stack: RunningStack) -> dict[str, tuple[int, int]]:
    """Messages and bytes of every stream and bucket."""
    connection = await nats.connect(stack.nats.url, token=stack.nats.token)
    try:
        js = connection.jetstream()
        states = {name: (await js.stream_info(stream)).state for name, stream in STREAMS.items()}
        return {name: (state.messages, state.bytes) for name, state in states.items()}
    finally:
        await connection.close()


def used(stack: RunningStack, before: Mapping[str, float]) -> dict[str, float]:
    return {name: cpu_seconds(pid) - before[name] for name, pid in stack.pids.items()}


async def small_batches(stack: RunningStack, http: httpx.AsyncClient, count: int, content: bytes) -> None:
    """What stays in NATS of each batch, and what one costs that has next to no lines."""
    streams_before, disk = await in_streams(stack), stored(stack.layout.nats)
    ledger = ledger_bytes(stack)
    before = {name: cpu_seconds(pid) for name, pid in stack.pids.items()}
    for begin in range(0, count, 50):
        ids = await asyncio.gather(*(submit(http, content) for _ in range(min(50, count - begin))))
        for batch_id in ids:
            await ended(http, batch_id)
    await asyncio.sleep(3)
    print(f"\n{count} batches of one line, one after another in fifties; for each of them")
    for name, (messages, size) in (await in_streams(stack)).items():
        had, was = streams_before[name]
        print(f"  {name:10} {(messages - had) / count:5.1f} messages {(size - was) / count:8,.0f} bytes")
    print(f"  disk of NATS {(stored(stack.layout.nats) - disk) / count:14,.0f} bytes")
    print(f"  ledger       {(ledger_bytes(stack) - ledger) / count:14,.0f} bytes of SQLite")
    for name, seconds in used(stack, before).items():
        print(f"  CPU of {name:12} {1000 * seconds / count:7.1f} ms")


async def large_batch(stack: RunningStack, http: httpx.AsyncClient, count: int, content: bytes) -> None:
    """What a line costs in a batch of many."""
    objects_before, disk = stored(stack.layout.objects), stored(stack.layout.nats)
    before = {name: cpu_seconds(pid) for name, pid in stack.pids.items()}
    batch_id = await submit(http, content)
    uploaded, peak, peak_disk, peak_sockets = stored(stack.layout.objects) - objects_before, 0, 0, 0
    while True:
        batch = (await http.get(f"/batches/{batch_id}")).json()
        peak = max(peak, stored(stack.layout.objects) - objects_before)
        peak_disk = max(peak_disk, stored(stack.layout.nats) - disk)
        peak_sockets = max(peak_sockets, sockets(stack.pids[RUNNER]))
        if batch["status"] in ENDED:
            break
        await asyncio.sleep(0.5)
    cpu = used(stack, before)
    await asyncio.sleep(3)
    left = stored(stack.layout.objects) - objects_before
    output = await http.get(f"/files/{batch['output_file_id']}/content")
    print(f"\n{batch['request_counts']['completed']} lines of {len(content) / count:,.0f} bytes in one batch")
    print(f"  output {len(output.content) / count:,.0f} bytes for each line")
    print(
        f"  object store: {uploaded / count:,.0f} bytes for each line at first, {peak / count:,.0f} at most, "
        f"{left / count:,.0f} afterwards"
    )
    print(f"  disk of NATS: {peak_disk / count:,.1f} bytes for each line at most")
    for name, seconds in cpu.items():
        print(f"  CPU of {name:12} {1e6 * seconds / count:7.0f} µs for each line")
    for name, pid in stack.pids.items():
        print(f"  memory of {name:12} {peak_mib(pid):6.0f} MiB at most")
    print(f"  sockets of the runner: {peak_sockets} at most")


async def records(stack: RunningStack, count: int) -> None:
    """The memory of NATS by the records that it keeps, whatever is in them."""
    before = resident_mib(stack.pids[NATS])
    connection = await nats.connect(stack.nats.url, token=stack.nats.token)
    try:
        js = connection.jetstream()
        for begin in range(0, count, 500):
            keys = (f"$KV.{FILES_BUCKET}.sizing.{number:036}" for number in range(begin, begin + 500))
            await asyncio.gather(*(js.publish(key, b"x" * 400) for key in keys))
    finally:
        await connection.close()
    grown = resident_mib(stack.pids[NATS]) - before
    print(f"\n{count} records more: {grown:.0f} MiB more memory of NATS, {grown * 2**20 / count:,.0f} bytes for each")


async def open_shards(prompt_bytes: int, config: Path) -> None:
    """The runner's memory by the shards that it has open, each with all its lines answered but one."""
    print("\nopen shards of 500 lines   memory of the runner")
    for count in (0, 4, 16, 32):
        environment = {
            "BATCHYARD_SHARDS_PER_BATCH": "32",
            "BATCHYARD_SHARD_WINDOW": "32",
            "BATCHYARD_SHARDS_PER_POOL": "80",  # of which one batch gets less than half
        }
        with tempfile.TemporaryDirectory() as directory:
            async with (
                running_stack(Path(directory), config=config, environment=environment) as stack,
                client(stack) as http,
            ):
                if count:
                    lines = lines_of(SHARD_LINES * count, prompt_bytes).splitlines()
                    for last in range(SHARD_LINES - 1, len(lines), SHARD_LINES):
                        lines[last] = lines[last].replace(b'"content": "', b'"content": "[[fault:hang]] ')
                    batch_id = await submit(http, b"\n".join(lines))
                    while await answered(http, batch_id) < (SHARD_LINES - 1) * count:
                        await asyncio.sleep(0.5)
                await asyncio.sleep(2)
                print(f"{count:24} {resident_mib(stack.pids[RUNNER]):18.0f} MiB", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--prompt-bytes", type=int, default=400)
    parser.add_argument("--answer-tokens", type=int, default=100)
    options = parser.parse_args()
    sim_options = ("--answer-tokens", str(options.answer_tokens))
    async with simulator(0.0, 4096, *sim_options) as (server, _):
        with tempfile.TemporaryDirectory() as directory:
            config = config_for(directory, server)
            async with (
                running_stack(Path(directory) / "data", config=config) as stack,
                client(stack) as http,
            ):
                for name, pid in stack.pids.items():
                    print(
                        f"memory of {name:12} {resident_mib(pid):6.0f} MiB with nothing to do, {sockets(pid)} sockets"
                    )
                if options.batches:
                    await small_batches(stack, http, options.batches, lines_of(1, options.prompt_bytes))
                if options.lines:
                    content = lines_of(options.lines, options.prompt_bytes)
                    await large_batch(stack, http, options.lines, content)
                if options.records:
                    await records(stack, options.records)
            await open_shards(options.prompt_bytes, config)


if __name__ == "__main__":
    asyncio.run(main())
