"""What a request finds in the gateway: the services behind it, the store, the keys, the limits."""

import asyncio
from dataclasses import dataclass

from batchyard.common.clock import Clock
from batchyard.common.health import HealthChecks
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.objects import ObjectStore
from batchyard.gateway.auth import Keyring
from batchyard.gateway.directory import Directory
from batchyard.gateway.failed_creates import FailedCreates
from batchyard.gateway.keys import Keys
from batchyard.gateway.model_rules import ModelRules
from batchyard.gateway.request_limits import RequestLimits
from batchyard.gateway.settings import GatewaySettings
from batchyard.gateway.teams import Teams
from batchyard.gateway.webhooks.webhooks import Webhooks


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway's parts, made by the composition root and shared by all requests. `health` is its own."""

    commands: CommandClient
    objects: ObjectStore
    health: HealthChecks
    keyring: Keyring
    keys: Keys
    teams: Teams
    directory: Directory
    model_rules: ModelRules
    request_limits: RequestLimits
    webhooks: Webhooks
    settings: GatewaySettings
    clock: Clock
    failed_creates: FailedCreates
    inline_slots: asyncio.Semaphore
