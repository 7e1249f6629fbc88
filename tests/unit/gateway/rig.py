"""A gateway on a real port, with what a test needs to talk to it and to look behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from batchyard.common.config import Config
from batchyard.common.listening import listen
from batchyard.common.objects import ObjectStore
from batchyard.gateway.app import create_app, open_gateway
from batchyard.gateway.gateway import Gateway
from batchyard.gateway.server import serve_until
from batchyard.gateway.settings import GatewaySettings

KEY = "sk-batchyard-test-0123456789"
CONFIG = Config(master_key=SecretStr(KEY))
BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@dataclass(frozen=True)
class Served:
    """A gateway that listens at `url` (without /v1); `http` is a client with the master key; `parts` is what it is."""

    url: str
    port: int
    http: httpx.AsyncClient
    objects: ObjectStore
    directory: Path
    stop: Callable[[], Awaitable[None]]
    parts: Gateway

    async def keys(self) -> list[str]:
        """What lies in the object store."""
        return [info.key async for info in self.objects.list("")]

    def unpublished(self) -> list[Path]:
        """The files that the store is still writing."""
        return list((self.directory / ".tmp").glob("*"))

    async def upload(self, content: bytes = LINE, name: str = "in.jsonl", **fields: str) -> httpx.Response:
        """Upload a file, for a batch unless `fields` says otherwise."""
        return await self.http.post("/v1/files", data={"purpose": "batch"} | fields, files={"file": (name, content)})

    async def send_form(self, *chunks: bytes, path: str = "/v1/files", **headers: str) -> httpx.Response:
        """Send the body of a form in these chunks, without a Content-Length, as Node does."""

        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return await self.http.post(path, content=body(), headers={"content-type": FORM} | headers)

    async def announce(self, size: int, **more: Any) -> httpx.Response:
        """Create an upload, of user data unless `more` says otherwise; a member that is `...` is left out."""
        body = {"bytes": size, "filename": "notes.txt", "mime_type": "text/plain", "purpose": "user_data"} | more
        return await self.http.post("/v1/uploads", json={key: value for key, value in body.items() if value is not ...})

    async def add_part(self, upload_id: str, content: bytes) -> httpx.Response:
        """Send one part as the SDKs do."""
        return await self.http.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("upload", content)})


Start = Callable[..., Awaitable[Served]]


@asynccontextmanager
async def running_gateway(settings: GatewaySettings, config: Config = CONFIG) -> AsyncIterator[Served]:
    """Serve in the running loop while the context is open."""
    async with open_gateway(settings, config) as gateway, asyncio.TaskGroup() as tasks:
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        stopping = asyncio.Event()
        serving = tasks.create_task(serve_until(stopping, create_app(gateway), listener, settings))

        async def stop() -> None:
            stopping.set()
            await serving

        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as http:
            directory = Path(settings.object_store.removeprefix("file://"))
            yield Served(url, port, http, gateway.objects, directory, stop, gateway)
        await stop()


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in a response, which must be in the envelope and nothing else."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form whose parts have the given dispositions, in this order."""
    body = b""
    for disposition, content in parts:
        body += f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


@asynccontextmanager
async def raw_request(port: int, head: str, body: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    """A request of which only the beginning is sent, on a connection that closes with the context."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.replace("\n", "\r\n").encode() + body)
        await writer.drain()
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


UPLOAD_HEAD = f"""POST /v1/files HTTP/1.1
host: gateway
authorization: Bearer {KEY}
content-type: {FORM}
content-length: 1000000

"""
CHUNKED_UPLOAD_HEAD = (
    UPLOAD_HEAD.replace("content-length: 1000000", "transfer-encoding: chunked").replace("\n", "\r\n").encode()
)


def chunk_of(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process, or the network, brings about."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)
