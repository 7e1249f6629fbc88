"""The commands of billing, and who answers them."""

from batchyard.billing.ledger import Ledger
from batchyard.common.contracts.billing import GetSpend, SummarizeSpend
from batchyard.common.contracts.health import CheckBilling
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandRouter

SERVICE = "billing"


def command_router(ledger: Ledger, health: HealthChecks) -> CommandRouter:
    """A router to include in the broker before it starts."""
    router = CommandRouter(SERVICE)
    router.on(GetSpend, ledger.spend)
    router.on(SummarizeSpend, ledger.summarize)
    router.on(CheckBilling, health.check)
    return router
