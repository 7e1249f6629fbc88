"""The loop that drives the deployments: look at each, and set its limit."""

import asyncio
import random

from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.server_metrics import read_load
from batchyard.batch_runner.steering import Steering
from batchyard.batch_runner.upstream import Upstream
from batchyard.batch_runner.verdict import CUTS, Decision, Mode
from batchyard.common.clock import Clock
from batchyard.common.logs import get_logger
from batchyard.common.tasks import end, unless

_JITTER = 0.2  # of the interval: runners that look at the same moments mislead each other
_EARLY = 0.12  # seconds between two looks at a server that is yet to be filled
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
                await self._until_next(stop)
        finally:
            await end(self._looks)

    async def _until_next(self, stop: asyncio.Event) -> None:
        """Wait for about the interval, and meanwhile look more often at servers that are only being filled."""
        left = self._interval * self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        while left > 0 and not stop.is_set():
            # Where nothing is in flight, whoever begins next is not to wait for long either.
            is_early = self._ramping() or not any(member.in_flight for _, member, _ in self._driven())
            pause = min(left, _EARLY) if is_early else left
            await unless(stop, asyncio.sleep(pause))
            left -= pause
            if left > 0:
                self._look_at(self._ramping())

    def _driven(self) -> list[tuple[Pool, Member, Steering]]:
        """Whose limit is looked for."""
        members = ((pool, member) for pool in self._fleet.pools.values() for member in pool.members)
        return [(pool, member, member.steering) for pool, member in members if member.steering is not None]

    def _ramping(self) -> list[tuple[Pool, Member, Steering]]:
        return [driven for driven in self._driven() if driven[1].in_flight and driven[2].is_ramping]

    def _look_at_all(self) -> None:
        """At everyone who has something of ours, or has had until now."""
        for pool, member, steering in self._driven():
            if member.in_flight or steering.has_news(member.flights.traffic):
                self._look_at([(pool, member, steering)])
            else:
                member.queue = 0.0  # nobody looks any more, so nobody knows

    def _look_at(self, driven: list[tuple[Pool, Member, Steering]]) -> None:
        looked_at = list(self._looks.values())
        for pool, member, steering in driven:
            if member in looked_at:
                continue
            look = asyncio.create_task(self._look(pool, member, steering))
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
