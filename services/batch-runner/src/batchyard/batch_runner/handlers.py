"""The commands this service answers."""

from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.creation import Creation
from batchyard.batch_runner.dry_run import DryRun
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.fleet_state import fleet_state
from batchyard.batch_runner.retries import Retries
from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import (
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
    RetryBatch,
    ValidateBatch,
)
from batchyard.common.contracts.fleet import FleetState, GetFleet
from batchyard.common.contracts.health import CheckBatchRunner
from batchyard.common.contracts.models import ListModels, ModelList
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandRouter

SERVICE = "batch-runner"


def command_router(
    batches: Batches,
    creation: Creation,
    dry_run: DryRun,
    retries: Retries,
    fleet: Fleet,
    health: HealthChecks,
    clock: Clock,
) -> CommandRouter:
    async def list_models(_tenant: str, _command: ListModels) -> ModelList:
        return await fleet.list_models()

    async def get_fleet(_tenant: str, _command: GetFleet) -> FleetState:
        return fleet_state(fleet, clock)

    router = CommandRouter(SERVICE)
    router.on(CreateBatch, creation.create)
    router.on(ValidateBatch, dry_run.validate)
    router.on(GetBatch, batches.get)
    router.on(ListBatches, batches.list)
    router.on(CancelBatch, batches.cancel)
    router.on(RetryBatch, retries.retry)
    router.on(ListModels, list_models)
    router.on(GetFleet, get_fleet)
    router.on(CheckBatchRunner, health.check)
    return router
