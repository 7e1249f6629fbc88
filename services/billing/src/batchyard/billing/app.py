"""The composition root: settings in, a running service out."""

import asyncio
from functools import partial

from batchyard.billing import budget_loops
from batchyard.billing.budget_store import BudgetStore
from batchyard.billing.budgets import Budgets
from batchyard.billing.database import open_database
from batchyard.billing.handlers import SERVICE, command_router
from batchyard.billing.ledger import Ledger
from batchyard.billing.ledger_store import LedgerStore
from batchyard.billing.server_time_store import ServerTimeStore
from batchyard.billing.settings import BillingSettings
from batchyard.billing.spend import Spend
from batchyard.billing.spend_sums import SpendSums
from batchyard.billing.subscriber import EventSubscriber
from batchyard.common.clock import SystemClock
from batchyard.common.config import Config
from batchyard.common.contracts.events import BatchEvent
from batchyard.common.health import Check, HealthChecks
from batchyard.common.logs import get_logger
from batchyard.common.messaging.presence import bind_consumer
from batchyard.common.messaging.teams import open_teams
from batchyard.common.messaging.topology import Consumer, billing_consumer
from batchyard.common.operations import ready_when
from batchyard.common.reloading import following_config, read_config
from batchyard.common.service import Messaging, Serve, open_messaging

_log = get_logger(__name__)


def create_app(settings: BillingSettings) -> Serve:
    """A coroutine function that records and answers until the event it is given is set.

    It raises ConfigurationError when the configuration cannot be used, and ServiceUnavailable when the database
    does not answer in `settings.database_patience` seconds.
    """

    async def serve(stop: asyncio.Event) -> None:
        config = read_config(settings)
        async with (
            open_database(settings.database, settings.database_patience) as database,
            open_messaging(SERVICE, settings) as messaging,
            open_teams(messaging.connection) as teams,
        ):
            clock, store = SystemClock(), LedgerStore(database)
            ledger = Ledger(store, config, clock)
            spend = Spend(ledger, store, SpendSums(database), clock)
            times = ServerTimeStore(database)
            budgets = Budgets(BudgetStore(database), times, teams, config, clock, settings.assumed_tokens_per_second)
            consumer = billing_consumer()

            async def note(event: BatchEvent) -> None:
                await budgets.note(event.tenant, event.key_id)

            def use(changed: Config) -> None:
                ledger.use(changed)
                budgets.use(changed)

            await bind_consumer(messaging.js, consumer, settings)
            async with HealthChecks(SERVICE, checks(messaging, consumer, ledger)) as health:
                messaging.broker.include_router(command_router(spend, budgets, health))
                await messaging.broker.start()
                ready_when(health)
                _log.info("service.started", database=settings.database.render_as_string(hide_password=True))
                async with following_config(settings, config, stop, use), asyncio.TaskGroup() as tasks:
                    tasks.create_task(ledger.keep_prices(stop))
                    tasks.create_task(EventSubscriber(messaging.js, consumer, ledger, settings, note).run(stop))
                    tasks.create_task(budget_loops.run(budgets, messaging, settings, stop))

    return serve


def checks(messaging: Messaging, consumer: Consumer, ledger: Ledger) -> dict[str, Check]:
    """What billing stands on, by name."""
    return {
        "nats": messaging.check,
        "jetstream": partial(messaging.js.consumer_info, consumer.stream, consumer.name),
        "database": ledger.check,
    }
