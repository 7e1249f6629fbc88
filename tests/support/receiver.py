"""A receiver of webhooks on loopback: it notes what comes, and answers as it is told."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from openai import OpenAI

LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: str

    @classmethod
    async def of(cls, request: web.Request) -> "Received":
        """The request, read to its end."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        return cls(request.path, headers, await request.text())

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def unwrapped(self, secret: str) -> Any:
        """The event, by OpenAI's SDK, which raises when the signature is not right."""
        with OpenAI(api_key="sk-unused") as client:
            return client.webhooks.unwrap(self.body, self.headers, secret=secret)


@dataclass
class Receiver:
    """What came; `answers` are the next statuses, the last of which stays. `gate`, when it is cleared, holds all up."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=lambda: [200])
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        self.received.append(await Received.of(request))
        status = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        await self.gate.wait()
        return web.Response(status=status, headers={"location": f"{self.url}/elsewhere"}, body=b"x" * 100_000)

    async def until(self, condition: Callable[[list[Received]], bool]) -> list[Received]:
        """What came, once it fulfils `condition`."""
        async with asyncio.timeout(30):
            while not condition(self.received):
                await asyncio.sleep(0.01)
        return self.received


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    receiver.gate.set()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.gate.set()
        await runner.cleanup()
