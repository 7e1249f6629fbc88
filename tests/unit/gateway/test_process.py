"""The gateway as a process: how it starts, how much it holds, how it stops."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from unit.gateway.rig import KEY, until

from batchyard.common.settings import Settings

MIB = 1 << 20


@asynccontextmanager
async def process(settings: Settings, tmp_path: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m batchyard.gateway`, killed with the context if it still runs."""
    mine = {
        "BATCHYARD_NATS_URL": settings.nats_url,
        "BATCHYARD_OBJECT_STORE": settings.object_store,
        "BATCHYARD_MASTER_KEY": KEY,
        "BATCHYARD_PORT": "0",
        "BATCHYARD_PORT_FILE": str(tmp_path / "port"),
    }
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batchyard.gateway"),
        env=os.environ | mine | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


@asynccontextmanager
async def client_of(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway that has written its port."""
    port_file = tmp_path / "port"
    await until(port_file.exists)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port_file.read_text()}",
        headers={"authorization": f"Bearer {KEY}"},
        timeout=60,
        trust_env=False,
    ) as http:
        yield http


async def test_it_starts_says_where_and_stops_cleanly(settings: Settings, tmp_path: Path) -> None:
    async with process(settings, tmp_path) as running:
        async with client_of(tmp_path) as http:
            assert (await http.get("/health/liveness")).status_code == 200
        running.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(running.communicate(), timeout=30)
        assert running.returncode == 0
    assert b'"event": "gateway.listening"' in log
    assert b'"service": "gateway"' in log
    assert b'"event": "http.request"' in log
    assert b"auth.open" not in log
    assert KEY.encode() not in log


async def test_an_open_gateway_says_so_once(settings: Settings, tmp_path: Path) -> None:
    async with process(settings, tmp_path, BATCHYARD_MASTER_KEY="") as running:
        async with client_of(tmp_path) as http:
            assert (await http.get("/health/liveness")).status_code == 200
        running.terminate()
        _, log = await asyncio.wait_for(running.communicate(), timeout=30)
    assert log.count(b'"event": "auth.open"') == 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BATCHYARD_PORT": "70000"}, b"BATCHYARD_PORT"),
        ({"BATCHYARD_HOST": "203.0.113.1"}, b"cannot listen on 203.0.113.1"),
        ({"BATCHYARD_OBJECT_STORE": "ftp://x"}, b"BATCHYARD_OBJECT_STORE"),
    ],
)
async def test_what_is_misconfigured_is_named(
    settings: Settings, tmp_path: Path, environment: dict[str, str], said: bytes
) -> None:
    async with process(settings, tmp_path, **environment) as running:
        _, log = await asyncio.wait_for(running.communicate(), timeout=60)
    assert running.returncode == 2
    assert said in log


async def test_memory_does_not_grow_with_the_file(services: object, settings: Settings, tmp_path: Path) -> None:
    size = 64 * MIB

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(size // MIB):
            yield bytes(MIB)
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nevals\r\n--b--\r\n'

    async with process(settings, tmp_path) as running, client_of(tmp_path) as http:
        await http.get("/v1/files")
        before = _memory(running.pid, "VmRSS")
        headers = {"content-type": "multipart/form-data; boundary=b"}
        file = (await http.post("/v1/files", content=body(), headers=headers)).json()
        assert file["bytes"] == size
        async with http.stream("GET", f"/v1/files/{file['id']}/content") as response:
            assert sum([len(chunk) async for chunk in response.aiter_bytes()]) == size
        assert _memory(running.pid, "VmHWM") - before < 24 * MIB


def _memory(pid: int, name: str) -> int:
    """A process' memory in bytes: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(value) * 1024
