"""`python -m batchyard.common.declare`: make every stream, bucket and fixed consumer, once, and exit.

For installations where the services' users of NATS may not do so (`BATCHYARD_DECLARE_TOPOLOGY=false`). It is run again
after each upgrade and each change of a setting that it is made with: what is there is kept, and brought up to date.
"""

import asyncio
from functools import partial
from typing import NoReturn

from batchyard.common.logs import get_logger
from batchyard.common.messaging.permissions import TOPOLOGY
from batchyard.common.messaging.topology import declare_consumer, fixed_consumers, streams
from batchyard.common.service import open_messaging, run_service
from batchyard.common.settings import Settings

_log = get_logger(__name__)


def main() -> NoReturn:
    """Exit codes: 0 everything is there, 1 NATS did not answer, 2 misconfigured."""
    run_service(TOPOLOGY, Settings, lambda settings: partial(declare, settings))


async def declare(settings: Settings, _stop: asyncio.Event) -> None:
    """Declare everything that does not depend on the models."""
    settings = settings.model_copy(update={"declare_topology": True})
    async with open_messaging(TOPOLOGY, settings) as messaging:
        for consumers in fixed_consumers(settings).values():
            for consumer in consumers:
                await declare_consumer(messaging.js, consumer)
        _log.info("topology.declared", streams=[config.name for config in streams(settings)])


if __name__ == "__main__":
    main()
