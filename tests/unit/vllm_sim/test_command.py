"""The simulator as a command: what it prints, how it stops."""

import asyncio
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process

import aiohttp
import pytest
from pydantic import ValidationError

from batchyard.vllm_sim.settings import SimSettings


async def command(*options: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "batchyard.vllm_sim", *options, stdout=PIPE, stderr=PIPE
    )


async def first_line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 30)).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_is_and_stops_without_a_word(number: signal.Signals) -> None:
    process = await command("--port", "0", "--model", "one", "--model", "two", "--fault", "status=503:1")
    line = await first_line(process)
    found = re.fullmatch(
        r"vLLM simulator \(no model, deterministic answers\) on (http://127\.0\.0\.1:\d+)/v1 - model one, two\n",
        line,
    )
    assert found is not None, line
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{found[1]}/v1/completions", json={"prompt": "hello"}) as response:
            assert response.status == 503
        process.send_signal(number)
        assert await process.communicate() == (b"", b"")
    assert process.returncode == 0


async def test_it_stops_while_requests_hang() -> None:
    process = await command("--port", "0", "--fault", "hang:1")
    url = (await first_line(process)).split(" on ")[1].split(" - ")[0]
    async with aiohttp.ClientSession() as session:
        hanging = asyncio.create_task(session.post(f"{url}/completions", json={"prompt": "hello"}))
        while True:
            async with session.get(url.removesuffix("/v1") + "/sim/requests") as response:
                if (await response.json())["running"] == 1:
                    break
        process.send_signal(signal.SIGTERM)
        assert await process.communicate() == (b"", b"")
        with pytest.raises(aiohttp.ClientError):
            await hanging
    assert process.returncode == 0


async def test_quiet_prints_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    process = await command("--port", str(port), "--quiet")
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health"):
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert await process.communicate() == (b"", b"")


async def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = await command("--port", str(taken.getsockname()[1]))
        _, error = await process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(rb"Cannot listen on 127\.0\.0\.1:\d+: .+\n", error)


@pytest.mark.parametrize("options", [["--fault", "explode:1"], ["--max-num-seqs", "0"]])
async def test_a_bad_option_is_explained(options: list[str]) -> None:
    process = await command(*options)
    _, error = await process.communicate()
    assert process.returncode == 2
    assert b"Traceback" not in error


def test_settings_refuse_faults_that_cannot_be_read() -> None:
    with pytest.raises(ValidationError):
        SimSettings(faults=("explode:1",))
