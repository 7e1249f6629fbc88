"""The receiver of the webhooks: at times it answers 500, hangs or is down, and it notes what came and what it took."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from soak.plan import Mood, MoodKind
from support.receiver import Received

_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Heard:
    """A request that came at a time, and whether it was taken over: answered 200, with somebody there to read it."""

    at: float
    request: Received
    is_taken: bool


@dataclass
class Listener:
    """Listens on one port all the time but while it is down.

    Attributes:
        heard: What came.
        moods: How often it has been in each mood.
    """

    heard: list[Heard] = field(default_factory=list)
    moods: dict[MoodKind, int] = field(default_factory=dict)
    _mood: MoodKind | None = None
    _well: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self._port}"

    async def suffer(self, moods: tuple[Mood, ...], over: asyncio.Event) -> None:
        """One mood after the other, until nothing more is struck; it is well at the end, however that comes."""
        for mood in moods:
            await asyncio.sleep(mood.pause)
            if over.is_set():
                return
            self.moods[mood.kind] = self.moods.get(mood.kind, 0) + 1
            try:
                await self._enter(mood.kind)
                await asyncio.sleep(mood.lasts)
            finally:
                await self._recover()

    async def start(self) -> None:
        self._well.set()
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _enter(self, kind: MoodKind) -> None:
        self._mood = kind
        if kind is MoodKind.HANGS:
            self._well.clear()
        elif kind is MoodKind.DOWN:
            await self.stop()

    async def _recover(self) -> None:
        self._mood = None
        self._well.set()
        if self._runner is None:
            await self.start()

    async def _answer(self, request: web.Request) -> web.Response:
        at = time.time()
        came = await Received.of(request)
        status = 500 if self._mood is MoodKind.FAILS else 200
        await self._well.wait()
        is_read = request.transport is not None and not request.transport.is_closing()
        self.heard.append(Heard(at, came, status == web.HTTPOk.status_code and is_read))
        return web.Response(status=status)


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A listener while the context is open."""
    listener = Listener()
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()
