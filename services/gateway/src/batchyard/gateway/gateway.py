"""What a request finds in the gateway: the services behind it, the store, the keys, the limits."""

import asyncio
from dataclasses import dataclass

from batchyard.common.clock import Clock
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore
from batchyard.gateway.auth import Keyring
from batchyard.gateway.failed_creates import FailedCreates
from batchyard.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway's parts, made by the composition root and shared by all requests. `health` is its own."""

    commands: CommandClient
    objects: ObjectStore
    health: HealthChecks
    keyring: Keyring
    settings: GatewaySettings
    clock: Clock
    failed_creates: FailedCreates
    inline_slots: asyncio.Semaphore
