"""The composition root: settings and connections in, one application out."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware import Middleware

from batchyard.common.clock import SystemClock
from batchyard.common.config import Config
from batchyard.common.errors import ConfigurationError
from batchyard.common.health import HealthChecks
from batchyard.common.listening import listen
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import open_objects
from batchyard.common.operations import ready_when
from batchyard.common.reloading import following_config, read_config
from batchyard.common.service import Serve, open_messaging
from batchyard.gateway.auth import Keyring
from batchyard.gateway.directory import open_directory
from batchyard.gateway.document import Api, refusals
from batchyard.gateway.error_handlers import EXCEPTION_HANDLERS
from batchyard.gateway.failed_creates import FailedCreates
from batchyard.gateway.gateway import Gateway
from batchyard.gateway.key_aliases import KeyAliases
from batchyard.gateway.keys import Keys
from batchyard.gateway.model_rules import ModelRules
from batchyard.gateway.pausing_keys import PausingKeyWriter, keeping_told
from batchyard.gateway.request_context import RequestContext
from batchyard.gateway.request_limits import RequestLimits
from batchyard.gateway.routes import (
    batch_results,
    batches,
    files,
    fleet,
    health,
    keys,
    limits,
    models,
    retries,
    spend,
    teams,
    uploads,
    webhooks,
)
from batchyard.gateway.server import announce, serve_until
from batchyard.gateway.settings import GatewaySettings
from batchyard.gateway.teams import Teams
from batchyard.gateway.webhooks.webhooks import open_webhooks

SERVICE = "gateway"

_OPENAIS = (files, uploads, batches, retries, batch_results, models, webhooks)
_log = get_logger(__name__)


def create_app(gateway: Gateway) -> FastAPI:
    """The HTTP API over a gateway's parts."""
    app = routed_api([Middleware(RequestContext, clock=gateway.clock)])
    app.state.gateway = gateway
    return app


def routed_api(middleware: Sequence[Middleware] = ()) -> FastAPI:
    """The routes, with nothing behind them. Every one answers with and without `/v1`."""
    app = Api(
        title="Batchyard",
        summary="The OpenAI Files and Batch API for people who run their own vLLM servers",
        version="1",
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses=refusals(500),
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=middleware,
    )
    app.include_router(health.router)
    for routes in (*_OPENAIS, fleet, limits, spend, keys, teams):
        app.include_router(routes.router, prefix="/v1")
        app.include_router(routes.router, include_in_schema=False)
    return app


@asynccontextmanager
async def open_gateway(settings: GatewaySettings, config: Config) -> AsyncIterator[Gateway]:
    """The gateway's parts, connected; closed at the end, the object store last.

    Raises:
        ConfigurationError: There are keys but no master key, or what the settings name cannot be used.
    """
    clock = SystemClock()
    async with (
        open_objects(settings) as objects,
        open_messaging(SERVICE, settings) as messaging,
        open_webhooks(messaging.js, settings, clock) as hooks,
        open_directory(messaging.connection) as directory,
        keeping_told(messaging.connection, directory, pausing := PausingKeyWriter(messaging.js)),
        HealthChecks(
            SERVICE, {"nats": messaging.check, "object_store": objects.check}, settings.health_timeout
        ) as health,
    ):
        if config.master_key is None and next(iter(directory.keys), None) is not None:
            raise ConfigurationError(
                "There are keys, but no master key: without one everybody could do everything. Set "
                "general_settings.master_key or BATCHYARD_MASTER_KEY."
            )
        yield Gateway(
            commands=CommandClient(messaging.connection, settings.command_timeout),
            objects=objects,
            health=health,
            keyring=Keyring(config.master_key, directory, clock),
            keys=Keys(directory, KeyAliases(messaging.js), pausing, clock),
            teams=Teams(directory, clock),
            directory=directory,
            model_rules=ModelRules(config),
            request_limits=RequestLimits(clock),
            webhooks=hooks,
            settings=settings,
            clock=clock,
            failed_creates=FailedCreates(clock),
            inline_slots=asyncio.Semaphore(settings.inline_slots),
        )


def serve(settings: GatewaySettings) -> Serve:
    """The service as `run_service` starts it."""
    return partial(_run, settings)


async def _run(settings: GatewaySettings, stop: asyncio.Event) -> None:
    config = read_config(settings)

    def use(changed: Config) -> None:
        gateway.keyring.use(changed.master_key)
        gateway.model_rules.use(changed)

    async with open_gateway(settings, config) as gateway, following_config(settings, config, stop, use):
        if gateway.keyring.is_open:
            _log.warning("auth.open", hint="set general_settings.master_key or BATCHYARD_MASTER_KEY to ask for a key")
        with listen(settings.host, settings.port) as listener:
            announce(listener, settings.port_file)
            # By its own checks: a service that is missing behind it is no reason to take all gateways away.
            ready_when(gateway.health)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(gateway.webhooks.run(stop))
                await serve_until(stop, create_app(gateway), listener, settings)
