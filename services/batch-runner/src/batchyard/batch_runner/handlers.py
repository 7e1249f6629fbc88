"""The commands this service answers."""

from batchyard.batch_runner.admission import Admission
from batchyard.batch_runner.batches import Batches
from batchyard.batch_runner.creation import Creation
from batchyard.batch_runner.dry_run import DryRun
from batchyard.batch_runner.fleet_views import FleetViews
from batchyard.batch_runner.history import History
from batchyard.batch_runner.model_access import ModelAccess
from batchyard.batch_runner.retries import Retries
from batchyard.common.contracts.access import DEFAULT_TENANT
from batchyard.common.contracts.batches import (
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
    RetryBatch,
    ValidateBatch,
)
from batchyard.common.contracts.enqueued import GetEnqueued
from batchyard.common.contracts.events import ListEvents
from batchyard.common.contracts.fleet import FleetState, GetFleet
from batchyard.common.contracts.health import CheckBatchRunner
from batchyard.common.contracts.models import ListModels, ModelList
from batchyard.common.errors import PermissionDenied
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandRouter

SERVICE = "batch-runner"


def command_router(
    batches: Batches,
    creation: Creation,
    dry_run: DryRun,
    retries: Retries,
    access: ModelAccess,
    history: History,
    admission: Admission,
    views: FleetViews,
    health: HealthChecks,
) -> CommandRouter:
    async def list_models(tenant: str, _command: ListModels) -> ModelList:
        return await access.list_models(tenant)

    async def get_fleet(tenant: str, _command: GetFleet) -> FleetState:
        if tenant != DEFAULT_TENANT:
            raise PermissionDenied("Only whoever runs the fleet may see its servers.")
        return await views.collect()

    router = CommandRouter(SERVICE)
    router.on(CreateBatch, creation.create)
    router.on(ValidateBatch, dry_run.validate)
    router.on(GetBatch, batches.get)
    router.on(ListBatches, batches.list)
    router.on(CancelBatch, batches.cancel)
    router.on(RetryBatch, retries.retry)
    router.on(ListEvents, history.list)
    router.on(GetEnqueued, admission.report)
    router.on(ListModels, list_models)
    router.on(GetFleet, get_fleet)
    router.on(CheckBatchRunner, health.check)
    return router
