"""The services behind the gateway: file-store itself, and recording ones for those that the gateway only talks to.

The recording ones answer real commands over a real NATS: they are peers of the protocol, not mocks of our code.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel

from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.base import Command
from batchyard.common.contracts.batches import (
    Batch,
    BatchPage,
    BatchStatus,
    BatchValidation,
    CancelBatch,
    CreateBatch,
    GetBatch,
    ListBatches,
    RetryBatch,
    ValidateBatch,
)
from batchyard.common.contracts.billing import (
    AdjustSpend,
    GetSpend,
    LedgerLine,
    LedgerPage,
    ListPrices,
    PricesPage,
    SpendGroup,
    SpendReport,
    SummarizeSpend,
)
from batchyard.common.contracts.budgets import Budget, BudgetReport, GetBudgets, GetSpent, SpentReport
from batchyard.common.contracts.enqueued import EnqueuedReport, EnqueuedScope, EnqueuedUsage, GetEnqueued
from batchyard.common.contracts.fleet import DeploymentCounters, DeploymentState, FleetState, GetFleet
from batchyard.common.contracts.health import CheckBatchRunner, CheckBilling, CheckHealth, Health
from batchyard.common.contracts.models import ListModels, Model, ModelList
from batchyard.common.errors import ApiError
from batchyard.common.messaging.commands import CommandRouter

C = TypeVar("C", bound=Command[Any])

BATCH = Batch(
    id="batch_1",
    endpoint="/v1/chat/completions",
    input_file_id="file-1",
    completion_window="24h",
    status=BatchStatus.VALIDATING,
    created_at=1_700_000_000,
)
VALIDATION = BatchValidation(valid=True, endpoint="/v1/chat/completions", input_file_id="file-1")
MODELS = ModelList(
    data=[
        Model(id="llama", created=1, owned_by="vllm"),
        Model(id="meta-llama/Llama-3.1-8B Instruct", created=1, owned_by="vllm"),
    ]
)
FLEET = FleetState(
    runner="here-1",
    data=[
        DeploymentState(
            id="d",
            model="llama",
            api_base="http://gpu",
            status="up",
            limit=32,
            max_parallel_requests=512,
            in_flight=3,
            counters=DeploymentCounters(
                requests=5,
                answered=2,
                refused=0,
                failed=0,
                throttled=0,
                timed_out=0,
                taken_back=0,
                tokens=7,
                tokens_lost=0,
            ),
        )
    ],
)
NO_SPEND = SpendGroup(
    group=None,
    batches=0,
    requests=0,
    input_tokens=0,
    cached_tokens=0,
    output_tokens=0,
    cost=Decimal(0),
)
REPORT = SpendReport(currency="USD", group_by="model", data=[], total=NO_SPEND)

ADJUSTMENT = LedgerLine(
    id="adj_1",
    kind="adjustment",
    tenant="t",
    cost=Decimal(-1),
    currency="USD",
    finished_at=1,
    recorded_at=1,
    reason="r",
)
ENQUEUED = EnqueuedReport(team=EnqueuedScope(limits=Limits(max_batches=5), used=EnqueuedUsage(batches=2)))
BUDGETS = BudgetReport(currency="USD", team=Budget(spent=Decimal("1.5"), reserved=Decimal(2)))

Answer = BaseModel | ApiError
_TOO_LATE = 1.0


@dataclass
class Recorder:
    """Answers what it was told to answer, and remembers what it was asked and for whom."""

    asked: list[tuple[str, Command[Any]]] = field(default_factory=list)
    answers: dict[type[Command[Any]], Answer] = field(default_factory=dict)
    scripts: dict[type[Command[Any]], Callable[[str, Any], Any]] = field(default_factory=dict)
    held: dict[type[Command[Any]], int] = field(default_factory=dict)

    def hold(self, kind: type[Command[Any]], times: int) -> None:
        """Answer the next commands of `kind` only when nobody waits any more."""
        self.held[kind] = times

    def only(self, kind: type[C]) -> C:
        """The one command of `kind` that came."""
        (found,) = (command for _, command in self.asked if isinstance(command, kind))
        return found

    def handler(self, default: Answer) -> Callable[[str, Any], Any]:
        async def answer(tenant: str, command: Any) -> Any:
            self.asked.append((tenant, command))
            if self.held.get(type(command), 0):
                self.held[type(command)] -= 1
                await asyncio.sleep(_TOO_LATE)
            if type(command) in self.scripts:
                return await self.scripts[type(command)](tenant, command)
            given = self.answers.get(type(command), default)
            if isinstance(given, ApiError):
                raise given
            return given

        return answer


def _health(service: str) -> Callable[[str, CheckHealth], Any]:
    async def check(_tenant: str, _command: CheckHealth) -> Health:
        return Health(service=service, status="ok", checks={"nats": "ok"})

    return check


def batch_runner(recorder: Recorder) -> CommandRouter:
    """The commands of batch-runner."""
    router = CommandRouter("batch-runner")
    for kind in (CreateBatch, GetBatch, CancelBatch, RetryBatch):
        router.on(kind, recorder.handler(BATCH))
    router.on(ValidateBatch, recorder.handler(VALIDATION))
    router.on(ListBatches, recorder.handler(BatchPage(data=[BATCH], first_id=BATCH.id, last_id=BATCH.id)))
    router.on(ListModels, recorder.handler(MODELS))
    router.on(GetEnqueued, recorder.handler(ENQUEUED))
    router.on(GetFleet, recorder.handler(FLEET))
    router.on(CheckBatchRunner, _health("batch-runner"))
    return router


async def _spent(_tenant: str, command: GetSpent) -> SpentReport:
    """A half for the first, one for the second, and so on."""
    return SpentReport(currency="USD", spent=tuple(Decimal(n + 1) / 2 for n, _ in enumerate(command.scopes)))


def billing(recorder: Recorder) -> CommandRouter:
    """The commands of billing."""
    router = CommandRouter("billing")
    router.on(GetSpend, recorder.handler(LedgerPage(data=[])))
    router.on(SummarizeSpend, recorder.handler(REPORT))
    router.on(ListPrices, recorder.handler(PricesPage(data=[])))
    router.on(AdjustSpend, recorder.handler(ADJUSTMENT))
    router.on(GetBudgets, recorder.handler(BUDGETS))
    recorder.scripts.setdefault(GetSpent, _spent)
    router.on(GetSpent, recorder.handler(BUDGETS))
    router.on(CheckBilling, _health("billing"))
    return router
