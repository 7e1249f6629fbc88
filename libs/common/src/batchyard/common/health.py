"""Readiness: whether what the service stands on answers now."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

from batchyard.common.contracts.health import CheckHealth, Health
from batchyard.common.logs import get_logger
from batchyard.common.tasks import end

CHECK_SECONDS = 2.0
_log = get_logger(__name__)

Check = Callable[[], Awaitable[object]]


class HealthChecks:
    """Named checks, asked side by side; the answer comes in time even when one of them hangs.

    Args:
        service: Who answers.
        checks: By name: raises when something is wrong.
        timeout: Seconds for which an answer waits for its checks.
    """

    def __init__(self, service: str, checks: Mapping[str, Check], timeout: float = CHECK_SECONDS) -> None:
        self._service = service
        self._checks = checks
        self._timeout = timeout
        self._running: dict[str, asyncio.Task[str]] = {}
        self._failing: set[str] = set()

    async def check(self, _tenant: str, _command: CheckHealth) -> Health:
        """Ask everything, and say what is wrong."""
        # A check that still hangs from an earlier call is waited for again, so that hanging ones do not pile up.
        for name, check in self._checks.items():
            if name not in self._running:
                self._running[name] = asyncio.create_task(_outcome(check))
        tasks = dict(self._running)
        await asyncio.wait(tasks.values(), timeout=self._timeout)
        for name, task in tasks.items():
            if task.done() and self._running.get(name) is task:
                del self._running[name]
        checks = {name: task.result() if task.done() else self._hanging() for name, task in tasks.items()}
        self._tell(checks)
        status = "ok" if all(outcome == "ok" for outcome in checks.values()) else "unhealthy"
        return Health(service=self._service, status=status, checks=checks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End the checks that still hang."""
        await end(self._running.values())

    def _tell(self, checks: Mapping[str, str]) -> None:
        """Log what has begun to fail, with the reason, and what has recovered: not every look at it."""
        for name, outcome in checks.items():
            if outcome != "ok" and name not in self._failing:
                self._failing.add(name)
                _log.warning("health.failing", check=name, reason=outcome)
            elif outcome == "ok" and name in self._failing:
                self._failing.discard(name)
                _log.info("health.recovered", check=name)

    def _hanging(self) -> str:
        return f"no answer within {self._timeout:g} s"


async def _outcome(check: Check) -> str:
    try:
        await check()
    except Exception as error:  # noqa: BLE001  a check may fail in any way, and the answer says in which
        return str(error) or type(error).__name__
    return "ok"
