"""The composition root: settings become connections, connections become the service."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from nats.aio.msg import Msg

from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.attempt import Attempts
from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.budget_watch import BudgetWatch
from batchyard.batch_runner.claims import Claims
from batchyard.batch_runner.control import Control
from batchyard.batch_runner.creation import Creation
from batchyard.batch_runner.dispatch import Dispatch
from batchyard.batch_runner.dry_run import DryRun
from batchyard.batch_runner.enqueued_store import EnqueuedStore
from batchyard.batch_runner.finalization import Finalization
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.fleet_state import fleet_state
from batchyard.batch_runner.fleet_views import FleetViews
from batchyard.batch_runner.handlers import SERVICE, command_router
from batchyard.batch_runner.history import History
from batchyard.batch_runner.metrics import FleetMetrics
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.native.api import NativeApi
from batchyard.batch_runner.native.servers import NativeServers
from batchyard.batch_runner.pauses import Pauses
from batchyard.batch_runner.planning import Planning
from batchyard.batch_runner.pool_loops import PoolLoops
from batchyard.batch_runner.presence import Presence, runner_name
from batchyard.batch_runner.reconciler import Reconciler
from batchyard.batch_runner.results import Results
from batchyard.batch_runner.retention import Retention
from batchyard.batch_runner.retries import Retries
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.standings import Standings
from batchyard.batch_runner.steps import Stepper
from batchyard.batch_runner.sweep import Sweep
from batchyard.batch_runner.tasks import decode_step
from batchyard.batch_runner.upstream import HttpUpstream
from batchyard.batch_runner.worker import Worker
from batchyard.common import subjects
from batchyard.common.clock import SystemClock
from batchyard.common.config import Config
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.health import Check, HealthChecks
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.teams import open_pausing_keys, open_teams
from batchyard.common.messaging.topology import steps_consumer
from batchyard.common.messaging.work_loop import Done, Later, WorkLoop
from batchyard.common.objects import open_objects
from batchyard.common.operations import expose, ready_when
from batchyard.common.reloading import following_config, read_config
from batchyard.common.service import Messaging, open_messaging

_log = get_logger(__name__)


def serve(settings: RunnerSettings) -> Callable[[asyncio.Event], Awaitable[None]]:
    """The service as `run_service` starts it. Raises ConfigurationError for a configuration that cannot be."""
    config = read_config(settings)
    if not config.deployments:
        _log.warning(
            "config.no_models", detail="no model_list and no HOSTED_VLLM_API_BASE: every batch will be refused"
        )
    return partial(_run, settings, config)


async def _run(settings: RunnerSettings, config: Config, stop: asyncio.Event) -> None:
    clock = SystemClock()
    async with (
        open_objects(settings) as objects,
        open_messaging(SERVICE, settings) as messaging,
        open_teams(messaging.connection) as teams,
        open_pausing_keys(messaging.connection) as pausing_keys,
        HttpUpstream(settings.request_timeout, settings.max_response_bytes) as upstream,
        NativeApi(settings.request_timeout, clock) as native_api,
        _open_fleet(Fleet(config, settings, upstream, clock)) as fleet,
    ):
        rng = random.Random()  # noqa: S311  jitter is no secret
        store = BatchStore(messaging.connection, messaging.js, objects)
        commands = CommandClient(messaging.connection, settings.command_timeout)
        natives = NativeServers(store, fleet, native_api, settings, clock, rng)
        results = Results(store, natives, commands, settings)
        access = ModelAccess(fleet, teams)
        presence = Presence(
            messaging.connection, runner_name(), clock, lambda: fleet.at_work, lambda: fleet.divide(presence.part_in)
        )
        standings = Standings(store, settings, clock, lambda: 1 + len(presence.others))
        admission = Admission(store, EnqueuedStore(messaging.js), teams, commands, clock)
        pauses = Pauses()
        stepper = Stepper(
            store,
            Planning(store, fleet, natives, access, admission, settings, clock),
            Dispatch(store, fleet, standings, settings, clock),
            Finalization(store, fleet, results, admission, settings, clock),
            Sweep(store, natives, admission),
        )
        attempts = Attempts(upstream, settings.retry_policy, clock, rng)
        worker = Worker(store, fleet, natives, attempts, pauses, settings, clock)
        control = Control(fleet, upstream, clock, rng, settings.control_interval)
        steps = steps_consumer(settings)
        checks: dict[str, Check] = {
            "nats": messaging.check,
            "jetstream": partial(messaging.js.consumer_info, steps.stream, steps.name),
            "object_store": objects.check,
        }
        async with HealthChecks(SERVICE, checks) as health:
            batches = Batches(store, fleet, pauses, clock)
            claims = Claims(messaging.js)
            creation = Creation(store, claims, batches, fleet, commands, access, admission, settings, clock)
            dry_run = DryRun(objects, fleet, natives, commands, access, settings)
            retries = Retries(store, claims, batches, commands, access, admission, settings, clock)
            history = History(messaging.js)
            view = partial(fleet_state, presence.name, fleet, clock)
            views = FleetViews(messaging.connection, presence, view, clock)
            messaging.broker.include_router(
                command_router(batches, creation, dry_run, retries, access, history, admission, views, health)
            )
            metrics = FleetMetrics(fleet, worker.open_shards, standings, messaging.js, settings, clock)
            expose(metrics, metrics.refresh)
            pools = PoolLoops(messaging.js, settings, worker.handle)
            pools.serve(fleet.pools, natives.pools)

            def use(changed: Config) -> None:
                fleet.use(changed)
                worker.withdraw()
                pools.serve(fleet.pools, natives.pools)

            async with following_config(settings, config, stop, use):
                retention = Retention(store, commands, settings, clock, lambda: presence.is_first)
                reconciler = Reconciler(store, admission, standings, retention, settings, clock)
                budgets = BudgetWatch(
                    store,
                    batches,
                    teams,
                    pausing_keys,
                    commands,
                    pauses,
                    reconciler.unfinished,
                    settings.budget_interval,
                )
                await _work(
                    settings,
                    messaging,
                    stepper,
                    worker,
                    pools,
                    reconciler,
                    budgets,
                    control,
                    presence,
                    fleet.news,
                    views,
                    standings,
                    health,
                    stop,
                )


async def _work(
    settings: RunnerSettings,
    messaging: Messaging,
    stepper: Stepper,
    worker: Worker,
    pools: PoolLoops,
    reconciler: Reconciler,
    budgets: BudgetWatch,
    control: Control,
    presence: Presence,
    news: asyncio.Event,
    views: FleetViews,
    standings: Standings,
    health: HealthChecks,
    stop: asyncio.Event,
) -> None:
    async def move(data: bytes) -> Done | Later:
        task = decode_step(data)
        return await stepper.move(task.tenant, task.batch)

    async def on_control(message: Msg) -> None:
        task = decode_step(message.data)
        with suppress(ServiceUnavailable):  # it looks again by itself before long
            await worker.look_again(task.tenant, task.batch)

    steps = WorkLoop(messaging.js, steps_consumer(settings), settings.step_slots, move)
    await steps.declare()
    await messaging.connection.subscribe(subjects.BATCH_CONTROL, cb=on_control)
    await presence.listen()
    await views.listen()
    await messaging.broker.start()
    ready_when(health)
    _log.info("service.started", pools=pools.pools)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(steps.run(stop))
        tasks.create_task(pools.run(stop))
        tasks.create_task(worker.watch(stop))
        tasks.create_task(reconciler.run(stop))
        tasks.create_task(control.run(stop))
        tasks.create_task(presence.run(stop, news))
        tasks.create_task(standings.run(stop))
        tasks.create_task(budgets.run(stop))
        await stop.wait()
        worker.shut_down()


@asynccontextmanager
async def _open_fleet(fleet: Fleet) -> AsyncIterator[Fleet]:
    try:
        yield fleet
    finally:
        await fleet.close()
