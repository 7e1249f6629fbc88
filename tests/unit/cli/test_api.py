"""What the demo says when the gateway refuses or is away."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from batchyard.cli.api import Api
from batchyard.cli.failures import Failure


@pytest.fixture
async def gateway() -> AsyncIterator[str]:
    """A server that knows one file, and refuses everything else as the gateway does."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/files/file-1/content":
            return web.Response(body=b"content")
        if request.headers["authorization"] != "Bearer right":
            return web.Response(status=502, text="<html>")
        return web.json_response({"error": {"message": "No batch found with id 'x'."}}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_refusal_is_told_in_the_gateways_words(gateway: str) -> None:
    async with Api(gateway, "right") as api:
        with pytest.raises(Failure, match=r"GET /v1/batches/x: 404 No batch found with id 'x'\."):
            await api.batch("x")


async def test_an_answer_that_is_not_the_gateways_is_quoted(gateway: str) -> None:
    async with Api(gateway, "wrong") as api:
        with pytest.raises(Failure, match="GET /v1/batches/x: 502 <html>"):
            await api.batch("x")


async def test_a_content_is_written_to_a_file(gateway: str, tmp_path: Path) -> None:
    async with Api(gateway, "right") as api:
        await api.download("file-1", tmp_path / "got")
        with pytest.raises(Failure, match="404"):
            await api.download("file-2", tmp_path / "none")
    assert (tmp_path / "got").read_bytes() == b"content"


async def test_a_gateway_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchyard.cli.api._CONNECT_RETRIES", 0)
    async with Api("http://127.0.0.1:9", "right") as api:
        with pytest.raises(Failure, match=r"GET /v1/batches/x: the gateway does not answer \(ConnectError\)"):
            await api.batch("x")


@pytest.mark.parametrize("ending", ["/", "/v1", "/v1/"])
async def test_a_url_as_clients_are_told_is_as_good(gateway: str, ending: str, tmp_path: Path) -> None:
    async with Api(gateway + ending, "right") as api:
        await api.download("file-1", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"content"
