"""The port for those who run a service: probes and metrics over HTTP, on a socket of its own.

aiohttp's server, because it runs in a loop that is not its own without touching the process' signals. It takes a tenth
of a second to import, so this module is imported by processes that have the port alone.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from batchyard.common.listening import BACKLOG, listen
from batchyard.common.logs import get_logger
from batchyard.common.operations import Operations

_CLOSING_SECONDS = 1.0
_log = get_logger(__name__)


@asynccontextmanager
async def listening(operations: Operations, host: str, port: int) -> AsyncIterator[int]:
    """Answer on `port`, or any free one for 0; the port that it is.

    Raises:
        ConfigurationError: It cannot be had.
    """
    listener = listen(host, port)
    runner = web.AppRunner(_application(operations), access_log=None, shutdown_timeout=_CLOSING_SECONDS)
    try:
        await runner.setup()
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        found: int = listener.getsockname()[1]
        _log.info("operations.listening", host=host, port=found)
        yield found
    finally:
        await runner.cleanup()
        listener.close()


def _application(operations: Operations) -> web.Application:
    async def liveness(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readiness(_request: web.Request) -> web.Response:
        health = await operations.readiness()
        status = 200 if health.status == "ok" else 503
        return web.json_response(text=health.model_dump_json(), status=status)

    async def metrics(request: web.Request) -> web.Response:
        await operations.refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return web.Response(body=encode(operations.registry), headers={"content-type": content_type})

    application = web.Application()
    application.router.add_get("/health/liveness", liveness)
    application.router.add_get("/health/readiness", readiness)
    application.router.add_get("/metrics", metrics)
    return application
