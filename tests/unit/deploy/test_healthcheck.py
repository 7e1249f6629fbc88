"""The health check of the containers, as they run it."""

import asyncio
import subprocess
import sys

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.compose import ROOT


@pytest.fixture
def script() -> list[str]:
    return [sys.executable, "-IS", str(ROOT / "deploy" / "healthcheck.py")]


async def check(script: list[str], status: int) -> subprocess.CompletedProcess[str]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text="nats: away")

    application = web.Application()
    application.router.add_get("/health", answer)
    async with TestServer(application) as server:
        command = [*script, str(server.make_url("/health"))]
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)


async def test_a_container_that_answers_is_well(script: list[str]) -> None:
    assert (await check(script, 200)).returncode == 0


async def test_a_container_that_is_not_ready_says_why(script: list[str]) -> None:
    done = await check(script, 503)
    assert done.returncode == 1
    assert "503 nats: away" in done.stderr


def test_a_container_that_does_not_answer_is_unwell(script: list[str]) -> None:
    done = subprocess.run([*script, "http://127.0.0.1:1/health"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr
    assert "Traceback" not in done.stderr
