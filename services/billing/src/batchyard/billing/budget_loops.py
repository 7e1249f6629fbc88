"""What is done for budgets again and again beside the commands."""

import asyncio
from collections.abc import Awaitable, Callable

from batchyard.billing.budgets import Budgets
from batchyard.billing.settings import BillingSettings
from batchyard.common.errors import ApiError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.service import Messaging
from batchyard.common.tasks import unless

_log = get_logger(__name__)


async def run(budgets: Budgets, messaging: Messaging, settings: BillingSettings, stop: asyncio.Event) -> None:
    """Tell what is to be told of budgets, and find what is set aside for nothing, until `stop` is set."""
    commands = CommandClient(messaging.connection, settings.command_timeout)

    async def tell() -> None:
        await budgets.tell(messaging.js)

    async def audit() -> None:
        await budgets.audit(commands)

    await asyncio.gather(
        _every(settings.budget_interval, "tell", tell, stop),
        _every(settings.reservation_audit_interval, "audit", audit, stop),
    )


async def _every(seconds: float, name: str, work: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        await unless(stop, asyncio.sleep(seconds))
        if stop.is_set():
            return
        try:
            await work()
        except ApiError as error:
            _log.warning("budgets.postponed", work=name, reason=str(error))
