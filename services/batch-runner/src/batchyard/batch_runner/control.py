"""The loop that drives the deployments: look at each, and set its limit."""

import asyncio
import random
from contextlib import suppress

from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.limiter import CUTS, Decision, Mode
from batchyard.batch_runner.pool import Member, Pool
from batchyard.batch_runner.server_metrics import read_load
from batchyard.batch_runner.steering import Steering
from batchyard.batch_runner.upstream import Upstream
from batchyard.common.clock import Clock
from batchyard.common.logs import get_logger
from batchyard.common.tasks import end

_JITTER = 0.2  # of the interval: runners that look at the same moments mislead each other
_log = get_logger(__name__)


class Control:
    """Looks at every deployment that has requests of ours, about every `interval` seconds.

    A server that is slow to tell its load holds up nobody else's.
    """

    def __init__(self, fleet: Fleet, upstream: Upstream, clock: Clock, rng: random.Random, interval: float) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._looks: dict[asyncio.Task[None], Member] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Drive until `stop` is set."""
        try:
            while not stop.is_set():
                self._look_at_all()
                with suppress(TimeoutError):
                    jitter = self._rng.uniform(1 - _JITTER, 1 + _JITTER)
                    await asyncio.wait_for(stop.wait(), self._interval * jitter)
        finally:
            await end(self._looks)

    def _look_at_all(self) -> None:
        looked_at = list(self._looks.values())
        for pool in self._fleet.pools.values():
            for member in pool.members:
                if member.steering is None or member in looked_at:
                    continue
                if not member.in_flight and not member.steering.has_news(member.flights.traffic):
                    member.queue = 0.0  # nobody looks any more, so nobody knows
                    continue
                look = asyncio.create_task(self._look(pool, member, member.steering))
                self._looks[look] = member
                look.add_done_callback(self._looks.pop)

    async def _look(self, pool: Pool, member: Member, steering: Steering) -> None:
        try:
            before, mode, untold = steering.limit, steering.mode, steering.untold
            # What is in flight by either account: a request that ends meanwhile must not pass for somebody else's.
            in_flight = self._fleet.in_flight(member.deployment.base_url)
            text = await self._upstream.metrics(member.deployment)
            load = None if text is None else read_load(text)
            in_flight = max(in_flight, self._fleet.in_flight(member.deployment.base_url))
            siblings = in_flight - member.in_flight
            decision = steering.look(
                load,
                member.flights.traffic,
                member.in_flight,
                member.flights.take_most(),
                siblings,
                self._clock.monotonic(),
                self._clock.now(),
            )
            self._tell_mode(pool, member, mode, steering.mode)
            if steering.untold != untold:
                self._tell_untold(pool, member, steering.untold)
            member.flights.sees_others(steering.others + siblings, self._clock.monotonic())
            if decision is not None:
                member.queue = 0.0 if load is None else load.waiting
                self._follow(pool, member, decision, before)
        except Exception as error:  # noqa: BLE001  a server is driven on as it was, whatever goes wrong in looking at it
            _log.error("deployment.not_driven", deployment=member.deployment.id, pool=pool.name, exc_info=error)

    def _follow(self, pool: Pool, member: Member, decision: Decision, before: int) -> None:
        if decision.limit < before and decision.reason in CUTS:
            member.cuts[decision.reason] += 1
        if decision.limit != before:
            level = _log.info if decision.reason in CUTS else _log.debug
            level(
                "deployment.limit",
                deployment=member.deployment.id,
                pool=pool.name,
                limit=decision.limit,
                before=before,
                reason=decision.reason.value,
            )
        pool.drive(member, decision.limit)
        if decision.abort:
            member.flights.recall_youngest(decision.abort)

    def _tell_mode(self, pool: Pool, member: Member, before: Mode | None, after: Mode | None) -> None:
        if after is before:
            return
        if after is Mode.LATENCY:
            _log.warning(
                "deployment.no_metrics",
                deployment=member.deployment.id,
                pool=pool.name,
                detail="GET /metrics tells no vllm:num_requests_running and _waiting: the limit follows the latency",
            )
        elif before is not None:
            _log.info("deployment.metrics_found", deployment=member.deployment.id, pool=pool.name)

    def _tell_untold(self, pool: Pool, member: Member, untold: tuple[str, ...]) -> None:
        level = _log.warning if untold else _log.info
        level("deployment.metrics_missing", deployment=member.deployment.id, pool=pool.name, missing=untold)
