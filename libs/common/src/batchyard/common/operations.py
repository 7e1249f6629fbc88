"""What a process shows to those who run it: whether it can work, and its metrics.

A service says what it has, by `ready_when` and `expose`, and need not know whether anybody looks: the process opens
the port (`operations_port`) if its settings ask for one, before it waits for anything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from batchyard.common.contracts.health import CheckHealth, Health
from batchyard.common.health import HealthChecks
from batchyard.common.logs import get_logger

_REFRESH_SECONDS = 2.0
_log = get_logger(__name__)

open_operations: ContextVar["Operations | None"] = ContextVar("open_operations", default=None)
"""Those of this process, where it has a port for them."""

Refresh = Callable[[], Awaitable[None]]


class Operations:
    """What one service shows.

    Args:
        service: Its name.
        stop: Set when the process is told to stop: it is not ready from then on.
    """

    def __init__(self, service: str, stop: asyncio.Event) -> None:
        self._service = service
        self._stop = stop
        self.health: HealthChecks | None = None
        self.refreshes: list[Refresh] = []
        # Of what a module counts for the whole process there is one registry; what a service shows of itself is here,
        # since several services may live in one process, as in tests.
        self.registry = CollectorRegistry()
        self.registry.register(_Everything())
        self.registry.register(_Build(service))

    async def readiness(self) -> Health:
        """The service's own checks. One that still starts, or that was told to stop, is not ready."""
        if self._stop.is_set():
            return self._not_ready("stopping")
        if self.health is None:
            return self._not_ready("starting")
        return await self.health.check("", CheckHealth())

    async def refresh(self) -> None:
        """Ask what metrics are read from, for two seconds at most: what does not answer is left out of them."""
        for work in tuple(self.refreshes):
            try:
                await asyncio.wait_for(work(), _REFRESH_SECONDS)
            except Exception as error:  # noqa: BLE001  the other metrics are shown whatever it was
                _log.warning("metrics.not_refreshed", error=repr(error))

    def _not_ready(self, why: str) -> Health:
        return Health(service=self._service, status="unhealthy", checks={"service": why})


def ready_when(health: HealthChecks) -> None:
    """From now on the process is ready when `health` finds nothing wrong."""
    operations = open_operations.get()
    if operations is not None:
        operations.health = health


def expose(collector: Collector, refresh: Refresh | None = None) -> None:
    """Show a collector's metrics from now on.

    Args:
        refresh: Awaited before each look, for what a collector cannot ask for since it may not wait.
    """
    operations = open_operations.get()
    if operations is None:
        return
    operations.registry.register(collector)
    if refresh is not None:
        operations.refreshes.append(refresh)


class _Everything(Collector):
    """What is counted for the whole process: its memory, its CPU time, and whatever a module counts."""

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()


class _Build(Collector):
    """What runs here."""

    def __init__(self, service: str) -> None:
        try:
            number = version(f"batchyard-{service}")
        except PackageNotFoundError:
            number = "unknown"
        self._labels = {"service": service, "version": number}

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("batchyard_build", "The service and its version", self._labels)
