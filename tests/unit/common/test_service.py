"""The life of a service's process, seen from outside: what it says and how it exits."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from unit.common.nats_rig import Server, free_port

from support import probe

START_SECONDS = 30.0
STOP_SECONDS = 15.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Not yet started."""
    with Server(tmp_path / "nats") as server:
        yield server


@asynccontextmanager
async def running(how: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", probe.__name__, how),
        cwd=Path(probe.__file__).parent.parent,
        env=os.environ | environment,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def says(process: Process, word: str) -> None:
    """Wait for a line of the process."""
    assert process.stdout
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    assert line.decode().strip() == word


async def ended(process: Process, within: float) -> tuple[int | None, str]:
    """Its exit code, and what it wrote to stderr."""
    _, log = await asyncio.wait_for(process.communicate(), within)
    return process.returncode, log.decode()


def records(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_that_is_told_to_stop_exits_with_0(server: Server, number: signal.Signals) -> None:
    server.start()
    async with running("connect", BATCHYARD_NATS_URL=server.url) as process:
        await says(process, "starting")
        await says(process, "ready")
        process.send_signal(number)
        code, log = await ended(process, STOP_SECONDS)
    assert code == 0
    assert [record["event"] for record in records(log)] == ["service.stopped"]


async def test_a_service_that_still_waits_for_nats_stops_when_told(server: Server) -> None:
    async with running("connect", BATCHYARD_NATS_URL=server.url) as process:
        await says(process, "starting")
        process.send_signal(signal.SIGTERM)
        code, log = await ended(process, STOP_SECONDS)
    assert code == 0
    assert "Traceback" not in log


async def test_a_service_whose_server_went_away_stops_when_told(server: Server) -> None:
    server.start()
    async with running("connect", BATCHYARD_NATS_URL=server.url) as process:
        await says(process, "starting")
        await says(process, "ready")
        server.stop()
        process.send_signal(signal.SIGTERM)
        code, log = await ended(process, STOP_SECONDS)
    assert code == 0
    assert "Traceback" not in log


async def test_a_wrong_setting_is_named_and_exits_with_2() -> None:
    async with running("connect", BATCHYARD_NATS_REPLICAS="many", BATCHYARD_LOG_LEVEL="hidden") as process:
        code, log = await ended(process, START_SECONDS)
    assert code == 2
    assert len(log.splitlines()) == 2
    assert "probe: BATCHYARD_NATS_REPLICAS: Input should be a valid integer" in log
    assert "probe: BATCHYARD_LOG_LEVEL: Input should be 'debug'" in log
    assert "hidden" not in log


async def test_a_secret_that_comes_as_a_file_opens_the_door(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "BATCHYARD_NATS_TOKEN").write_text("right\n")
    with Server(tmp_path / "guarded", ("--auth", "right")) as server:
        server.start()
        environment = {"BATCHYARD_NATS_URL": server.url, "BATCHYARD_SECRETS_DIR": str(secrets)}
        async with running("connect", **environment) as process:
            await says(process, "starting")
            await says(process, "ready")
            process.send_signal(signal.SIGTERM)
            assert (await ended(process, STOP_SECONDS))[0] == 0


async def test_secrets_that_cannot_be_read_are_one_line_and_exit_with_2(tmp_path: Path) -> None:
    async with running("connect", BATCHYARD_SECRETS_DIR=str(tmp_path / "missing")) as process:
        code, log = await ended(process, START_SECONDS)
    assert code == 2
    assert log.splitlines() == [
        f"probe: BATCHYARD_SECRETS_DIR: {tmp_path}/missing cannot be read: No such file or directory"
    ]


async def test_a_wrong_configuration_is_one_line_and_exits_with_2() -> None:
    async with running("misconfigured") as process:
        code, log = await ended(process, START_SECONDS)
    (record,) = records(log)
    assert code == 2
    assert record["level"] == "critical"
    assert record["event"] == "service.misconfigured"
    assert record["error"] == "config.yaml: model_list[0] is wrong"


async def test_a_bug_is_logged_with_its_trace_and_exits_with_1() -> None:
    async with running("broken") as process:
        code, log = await ended(process, START_SECONDS)
    (record,) = records(log)
    assert code == 1
    assert (record["event"], record["service"]) == ("service.failed", "probe")
    assert "ZeroDivisionError: a bug" in record["exception"]


async def test_credentials_that_nats_refuses_are_a_configuration_error_and_stay_secret(tmp_path: Path) -> None:
    with Server(tmp_path / "guarded", ("--auth", "right")) as server:
        server.start()
        environment = {
            "BATCHYARD_NATS_URL": server.url,
            "BATCHYARD_NATS_TOKEN": "hidden",
            "BATCHYARD_LOG_LEVEL": "debug",
        }
        async with running("connect", **environment) as process:
            code, log = await ended(process, START_SECONDS)
    *_, record = records(log)  # the reset of the refused connection may have been told before
    assert code == 2
    assert "NATS refuses the credentials" in record["error"]
    assert "hidden" not in log


async def test_a_connection_closed_for_good_ends_the_process_so_that_it_is_started_anew(server: Server) -> None:
    server.start()
    async with running("too-large", BATCHYARD_NATS_URL=server.url) as process:
        code, log = await ended(process, START_SECONDS)
    assert code == 1
    assert "nats.closed" in [record["event"] for record in records(log)]


async def test_the_operations_port_answers_before_nats_does(server: Server) -> None:
    port = free_port()
    async with running("connect", BATCHYARD_NATS_URL=server.url, BATCHYARD_OPERATIONS_PORT=str(port)) as process:
        await says(process, "starting")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/health/liveness")).status_code == 200
            assert (await http.get("/health/readiness")).json()["checks"] == {"service": "starting"}
        process.send_signal(signal.SIGTERM)
        code, _ = await ended(process, STOP_SECONDS)
    assert code == 0


async def test_an_operations_port_that_is_taken_exits_with_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with running("connect", BATCHYARD_OPERATIONS_PORT=port) as process:
            code, log = await ended(process, START_SECONDS)
    assert code == 2
    assert f"port {port}" in records(log)[0]["error"]
