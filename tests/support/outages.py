"""What can go away under a running system, taken away and given back, and what must be true afterwards."""

import asyncio
import collections
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from batchyard.cli.nats_server import NatsServer, nats_server_binary
from batchyard.cli.running import RunningStack
from batchyard.cli.stack import NATS, nats_program
from batchyard.vllm_sim.server import listening
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.state import SimState
from batchyard.vllm_sim.testing import RunningSim
from support.stack import MASTER_KEY, MODEL
from support.systems import System, expected_answer, request_line

_LINGER_SECONDS = 0.05


def prompt(index: int) -> str:
    return f"question number {index}"


def content(count: int, model: str = MODEL) -> bytes:
    lines = b"\n".join(request_line(f"r{index}", prompt(index)) for index in range(count))
    return lines.replace(f'"{MODEL}"'.encode(), f'"{model}"'.encode())


async def submit(system: System, data: bytes, model: str) -> Any:
    """Upload an input for a model, and start a batch over it."""
    file = await upload(system, data, model)
    assert file.status == 200, file
    return await system.call(
        "POST",
        "/batches",
        json={"input_file_id": file.body["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    )


async def check_results(system: System, batch: Any, count: int) -> None:
    """Every line once, in input order, with its own answer; the usage is theirs, and so is the one ledger entry."""
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": count, "completed": count, "failed": 0}
    assert batch["error_file_id"] is None
    lines = await system.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{index}" for index in range(count)]
    for index, line in enumerate(lines):
        assert line["response"]["body"]["choices"][0]["message"]["content"] == expected_answer(prompt(index))
    assert batch["usage"]["total_tokens"] == sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
    entries = await system.ledger(batch["id"])
    assert [entry["usage"] for entry in entries] == [batch["usage"]]


def asked(*states: SimState) -> collections.Counter[str]:
    """How often each line came to the simulators."""
    records = [record for state in states for record in state.log.records()]
    return collections.Counter(re.sub(r"-[0-9a-f]+$", "", record.request_id or "") for record in records)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client saw, and after how many seconds."""

    status: int
    retry_after: str | None
    body: Any
    seconds: float


async def ask(system: System, method: str, path: str, **options: Any) -> Answered:
    began = time.monotonic()
    response = await system.http.request(method, f"{system.stack.url}{path}", **options)
    seconds = time.monotonic() - began
    with suppress(ValueError):
        return Answered(response.status_code, response.headers.get("retry-after"), response.json(), seconds)
    return Answered(response.status_code, response.headers.get("retry-after"), response.text, seconds)


async def upload(system: System, data: bytes, model: str = MODEL) -> Answered:
    return await ask(
        system,
        "POST",
        "/v1/files",
        data={"purpose": "batch"},
        files={"file": ("in.jsonl", data)},
        headers={"x-litellm-model": model},
    )


def check_unavailable(answered: Answered, within: float) -> None:
    """A client was told at once, and in a way that it understands, that it should come again."""
    assert answered.status == 503, answered
    assert answered.retry_after is not None
    assert int(answered.retry_after) > 0
    assert answered.body["error"]["code"] == "service_unavailable"
    assert answered.body["error"]["message"]
    assert answered.seconds < within


async def logged(stack: RunningStack, program: str, event: str, within: float = 30) -> None:
    """Wait until a program's log has an event."""
    path = stack.layout.log(program)
    async with asyncio.timeout(within):
        while f'"{event}"' not in path.read_text():
            await asyncio.sleep(0.05)


@contextmanager
def paused(stack: RunningStack, program: str) -> Iterator[None]:
    """A program that neither answers nor ends: its connections stay open."""
    pid = stack.kill(program, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def nats_refusing(stack: RunningStack) -> AsyncIterator[None]:
    """NATS killed, and nobody on its port until the context ends."""
    program = nats_program(nats_server_binary(), NatsServer(stack.layout.nats).config, stack.layout)
    stack.supervisor.replace(replace(program, command=("/bin/sleep", "600")))
    idle = await stack.restarted(NATS, stack.kill(NATS))
    try:
        yield
    finally:
        stack.supervisor.replace(program)
        stack.kill(NATS)
        await stack.restarted(NATS, idle)


@contextmanager
def objects_gone(stack: RunningStack) -> Iterator[None]:
    """The object store's folder as after a lost mount: a file is there instead."""
    objects = stack.layout.objects
    aside = objects.with_name("objects-aside")
    objects.rename(aside)
    objects.touch()
    try:
        yield
    finally:
        objects.unlink()
        aside.rename(objects)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own for a folder; the test is skipped where none may be mounted."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The disk of a folder, without a byte left."""
    filler = folder / "filler"
    block = b"\0" * 4096
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(block)
    try:
        yield
    finally:
        filler.unlink()


@asynccontextmanager
async def sim_at(port: int, **settings: Any) -> AsyncIterator[RunningSim]:
    """A simulator on a port of the caller's choice, so that it can come back there."""
    async with listening(SimSettings(port=port, **settings)) as simulator:
        yield RunningSim(simulator.url, simulator.state)


class Proxy:
    """A TCP proxy which, while it is `cut`, accepts connections only to close them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self.refused = 0
        self.port = 0

    @contextmanager
    def cut(self) -> Iterator[None]:
        self._is_cut = True
        for writer in self._writers:
            writer.close()
        try:
            yield
        finally:
            self._is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.refused += 1
            writer.close()
            return
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self._target)
        both = {writer, to_upstream}
        self._writers |= both
        try:
            await asyncio.gather(_copy(reader, to_upstream), _copy(upstream, writer))
        finally:
            self._writers -= both
            for one in both:
                one.close()

    async def until_refused(self, count: int, within: float = 10) -> None:
        async with asyncio.timeout(within):
            while self.refused < count:
                await asyncio.sleep(0.02)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy_to(target: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target)
    async with _listening(proxy.serve) as port:
        proxy.port = port
        yield proxy


@asynccontextmanager
async def trickling() -> AsyncIterator[str]:
    """A server that answers a byte now and then, and never to the end; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{")
            while not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(_LINGER_SECONDS)
        writer.close()

    async with _listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def _listening(serve: Any) -> AsyncIterator[int]:
    """Serve connections on a free port; those that are left at the end are cancelled."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def write_config(path: Path, deployments: Iterable[Mapping[str, object]]) -> Path:
    """A config.yaml with a deployment for each mapping of parameters (`api_base`, `timeout` …).

    Those with the same `model_name` are a pool; without one they belong to MODEL's.
    """
    lines = ["model_list:"]
    for given in deployments:
        parameters = dict(given)
        lines += [
            f"  - model_name: {parameters.pop('model_name', MODEL)}",
            "    litellm_params:",
            f"      model: hosted_vllm/{MODEL}",
        ]
        lines += [f"      {name}: {value}" for name, value in parameters.items()]
        lines += ["      input_cost_per_token: 0.000001", "      output_cost_per_token: 0.000002"]
    lines += ["general_settings:", f"  master_key: {MASTER_KEY}", ""]
    path.write_text("\n".join(lines))
    return path


def new_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(headers={"authorization": f"Bearer {MASTER_KEY}"}, timeout=30, trust_env=False)
