"""The commands of billing, and who answers them."""

from batchyard.billing.budgets import Budgets
from batchyard.billing.spend import Spend
from batchyard.common.contracts.billing import AdjustSpend, GetSpend, ListPrices, SummarizeSpend
from batchyard.common.contracts.budgets import GetBudgets, GetSpent, ReserveBudget
from batchyard.common.contracts.health import CheckBilling
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandRouter

SERVICE = "billing"


def command_router(spend: Spend, budgets: Budgets, health: HealthChecks) -> CommandRouter:
    """A router to include in the broker before it starts."""
    router = CommandRouter(SERVICE)
    router.on(GetSpend, spend.logs)
    router.on(SummarizeSpend, spend.summarize)
    router.on(AdjustSpend, spend.adjust)
    router.on(ListPrices, spend.prices)
    router.on(ReserveBudget, budgets.reserve)
    router.on(GetBudgets, budgets.report)
    router.on(GetSpent, budgets.spent)
    router.on(CheckBilling, health.check)
    return router
