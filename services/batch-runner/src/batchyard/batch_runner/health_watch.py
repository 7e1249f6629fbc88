"""Whether deployments are alive: asked once when they have just failed, and again and again while they are down."""

import asyncio
from collections.abc import Callable, Iterable

from batchyard.batch_runner.member import Member
from batchyard.batch_runner.priority import PriorityProbe
from batchyard.batch_runner.upstream import Health, Upstream
from batchyard.common.clock import Clock
from batchyard.common.logs import get_logger
from batchyard.common.tasks import end

_FIRST_PROBE = 0.1
_UNWELL_PATIENCE = 15.0  # seconds after which one that answers, but says that it is unwell, is tried all the same
_log = get_logger(__name__)


class HealthWatch:
    """Sets deployments of a pool aside that are down, and lets them back.

    Args:
        pool: The pool's name, for the log.
        probe_interval: Seconds between two questions at most.
        on_open: Called when one may be sent requests again.
    """

    def __init__(
        self, pool: str, upstream: Upstream, clock: Clock, probe_interval: float, on_open: Callable[[], None]
    ) -> None:
        self._pool = pool
        self._upstream = upstream
        self._clock = clock
        self._probe_interval = probe_interval
        self._on_open = on_open
        self._watches: dict[asyncio.Task[None], Member] = {}

    async def confirm_alive(self, member: Member) -> bool:
        """Ask a deployment that has just failed whether it is alive; all who ask at once share one question.

        A deployment that is not is set aside, and watched until it is back.
        """
        if member.down or member.removed:
            return False
        if member.probe is None:
            member.probe = asyncio.create_task(self._upstream.health(member.deployment))
            member.probe.add_done_callback(lambda _: setattr(member, "probe", None))
        health = await asyncio.shield(member.probe)
        if health is Health.ALIVE or (health is Health.UNWELL and not member.trusts_health):
            return True
        self.set_aside(member)
        return False

    def set_aside(self, member: Member) -> None:
        """A deployment is down: watch it until it answers again."""
        if member.down or member.removed:
            return
        member.breaker.trip(self._clock.monotonic())
        member.is_tried = False
        _log.warning("deployment.down", deployment=member.deployment.id, pool=self._pool)
        watch = asyncio.create_task(self._watch(member))
        self._watches[watch] = member
        watch.add_done_callback(self._watches.pop)

    def end_for_removed(self) -> None:
        """Ask no more after deployments that have left the configuration."""
        for watch, member in self._watches.items():
            if member.removed:
                watch.cancel()

    async def close(self, members: Iterable[Member]) -> None:
        """End all questions, those after `members` that were asked once included."""
        probes = [member.probe for member in members if member.probe is not None]
        await end((*self._watches, *probes))

    async def _watch(self, member: Member) -> None:
        """Ask a deployment that is down how it is until requests may be sent to it. One that says all along that it is
        unwell gets one request after a while: what answers `/health` need not be what answers requests."""
        began, delay = self._clock.monotonic(), _FIRST_PROBE
        while True:
            await asyncio.sleep(delay)
            health = await self._upstream.health(member.deployment)
            now = self._clock.monotonic()
            if health is Health.ALIVE:
                member.trusts_health = True
                member.priority = PriorityProbe()  # it may have been started otherwise
                member.breaker.answers(now)
                _log.info("deployment.up", deployment=member.deployment.id, pool=self._pool)
                break
            if health is Health.UNWELL and now - began >= _UNWELL_PATIENCE:
                member.is_tried = True
                member.breaker.answers(now, probes=1)
                _log.info("deployment.tried", deployment=member.deployment.id, pool=self._pool)
                break
            delay = min(delay * 2, self._probe_interval)
        self._on_open()
