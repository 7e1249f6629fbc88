"""The deployments of one model: who takes the next request, and who is left alone for a while."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from batchyard.batch_runner.allowance import Allowance
from batchyard.batch_runner.breaker import Breaker, BreakerRules
from batchyard.batch_runner.fairness import Claim, FairQueue, Share
from batchyard.batch_runner.flight import Flights
from batchyard.batch_runner.health_watch import HealthWatch
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.part import Part
from batchyard.batch_runner.priority import PriorityProbe
from batchyard.batch_runner.segments import Kind
from batchyard.batch_runner.steering import Steering
from batchyard.batch_runner.upstream import Upstream
from batchyard.common.clock import Clock
from batchyard.common.config import Deployment
from batchyard.common.logs import get_logger

_LEAST_WAIT = 0.001
_log = get_logger(__name__)


class PoolRetired(Exception):
    """The pool is no longer configured: it hands out no more places."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    """Somebody who waits for a place, elsewhere than on `avoid` if possible."""

    place: asyncio.Future[Member]
    avoid: Member | None


class Pool:
    """Hands out places on the deployments of one model, the least loaded first, to the waiters in fair order.

    When every deployment is down the waiters wait: a server that is being restarted fails no line. `close` ends the
    probes. Deployments may come and go (`update`). All state belongs to one event loop.

    Args:
        default_limit: Requests in flight at most to a deployment that has no `max_parallel_requests`.
        start_limit: Where the search for each deployment's own limit begins; None for no search.
        breaker_rules: When a deployment that fails is left alone, and for how long.
        begins: Called when the first shard comes to where there was none.

    Attributes:
        health: Who is asked whether a deployment is alive.
        results: How many lines have come to what here.
    """

    def __init__(
        self,
        name: str,
        deployments: Sequence[Deployment],
        default_limit: int,
        upstream: Upstream,
        clock: Clock,
        probe_interval: float,
        head_start: int = 0,
        start_limit: int | None = None,
        breaker_rules: BreakerRules | None = None,
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.members: list[Member] = []
        self.is_retired = False
        self.results: Counter[Kind] = Counter()
        self._default_limit = default_limit
        self._clock = clock
        self._start_limit = start_limit
        self._breaker_rules = breaker_rules or BreakerRules()
        self._begins = begins
        self._opening: asyncio.TimerHandle | None = None
        self._waiters: FairQueue[_Waiter] = FairQueue(head_start)
        self._part = Part()
        self._nobody = FairQueue[_Waiter](0).open("", "")
        self.health = HealthWatch(name, upstream, clock, probe_interval, self._wake)
        self.update(deployments)

    def update(self, deployments: Sequence[Deployment]) -> None:
        """Go over to these deployments. One that is there already keeps its state, whatever else is new about it; one
        that is there no more gets nothing new."""
        before = {(member.deployment.id, member.deployment.base_url): member for member in self.members}
        members = []
        for deployment in deployments:
            member = before.pop((deployment.id, deployment.base_url), None) or self._new_member(deployment)
            self._refresh(member, deployment)
            members.append(member)
        for member in before.values():
            member.removed = True
        self.health.end_for_removed()
        self.members = members
        self._wake()

    def divide(self, part: Part) -> None:
        """Keep to this part of the deployments' limits: other runners have the others."""
        if part != self._part:
            self._part = part
            self.update([member.deployment for member in self.members])

    def _ceiling(self, deployment: Deployment) -> int:
        most = deployment.max_parallel_requests
        return self._default_limit if most is None else self._part.whole(most)

    def _new_member(self, deployment: Deployment) -> Member:
        ceiling = self._ceiling(deployment)
        flights = Flights(Allowance(None, None, self._clock.monotonic()))
        if self._start_limit is None:
            return Member(deployment, ceiling, ceiling, flights, Breaker(self._breaker_rules))
        steering = Steering(self._start_limit, ceiling)
        return Member(deployment, ceiling, steering.limit, flights, Breaker(self._breaker_rules), steering)

    def _refresh(self, member: Member, deployment: Deployment) -> None:
        """Go over to what the configuration says of it now."""
        if member.deployment.priority != deployment.priority:
            member.priority = PriorityProbe()
        member.deployment = deployment
        member.ceiling = self._ceiling(deployment)
        rpm, tpm = self._part.rate(deployment.rpm), self._part.rate(deployment.tpm)
        member.flights.allowance.become(rpm, tpm, self._clock.monotonic())
        if member.steering is None:
            member.limit = member.ceiling
        else:
            member.steering.bound(member.ceiling)
            member.limit = member.steering.limit

    def retire(self) -> None:
        """Hand out nothing any more: whoever waits or comes gets PoolRetired."""
        self.is_retired = True
        self.update(())
        for ticket in self._waiters.drain():
            if not ticket.item.place.done():
                ticket.item.place.set_exception(PoolRetired())

    @property
    def is_down(self) -> bool:
        return all(member.down for member in self.members)

    @contextmanager
    def claimed(self, tenant: str, batch: str) -> Iterator[Claim]:
        """What the lines of one shard wait under, for as long as it is here."""
        was_at_work = self.is_at_work
        claim = self._waiters.open(tenant, batch)
        if not was_at_work:
            self._begins()
        try:
            yield claim
        finally:
            self._waiters.close(claim)

    @property
    def is_at_work(self) -> bool:
        """Whether there are shards here."""
        return bool(self._waiters.batches)

    @property
    def waiting(self) -> int:
        """Lines that wait for a place."""
        return len(self._waiters)

    @property
    def batches(self) -> frozenset[str]:
        """The batches whose shards this process has taken."""
        return self._waiters.batches

    async def acquire(self, avoid: Member | None = None, claim: Claim | None = None) -> Member:
        """A place on a deployment, once there is one; on another one than `avoid` if another one is open.

        Give it back with `release`, under the same claim. Who has none waits as one batch with all who have none.

        Raises:
            PoolRetired: There will be none.
        """
        claim = claim or self._nobody
        if self.is_retired:
            raise PoolRetired
        if not self._waiters and (member := self._choose(avoid)) is not None:
            return self._placed(member, claim.share)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        ticket = self._waiters.push(claim, waiter)
        try:
            return await waiter.place
        except asyncio.CancelledError:
            self._waiters.withdraw(ticket)
            if not waiter.place.cancelled() and waiter.place.exception() is None:
                self.release(waiter.place.result(), claim)  # the place that was given to us goes to the next
            raise

    def release(self, member: Member, claim: Claim | None = None) -> None:
        member.in_flight -= 1
        self._waiters.give_back((claim or self._nobody).share)
        self._wake()

    def drive(self, member: Member, limit: int) -> None:
        """Let a deployment have so many requests in flight from now on."""
        member.limit = limit
        self._wake()

    def succeeded(self, member: Member, began: float) -> None:
        """The deployment gave an answer that counts, to a request that was begun at this monotonic second."""
        if member.breaker.succeeded(began, self._clock.monotonic()):
            member.trusts_health = not member.is_tried
            _log.info("deployment.closed", deployment=member.deployment.id, pool=self.name)
            self._wake()

    def failed(self, member: Member, began: float) -> None:
        """An attempt failed that was begun at this monotonic second. A deployment that fails again and again cools down
        while others do the work."""
        now = self._clock.monotonic()
        rates = [
            other.breaker.failure_rate for other in self.members if other is not member and other.breaker.is_closed
        ]
        if member.breaker.failed(began, now, others=max(rates, default=None)):
            seconds = member.breaker.closed_for(now)
            _log.warning("deployment.opened", deployment=member.deployment.id, pool=self.name, seconds=seconds)

    def rest(self, member: Member, seconds: float) -> None:
        """Send nothing to a deployment for a while: it said that it has too much to do."""
        member.rests_until = max(member.rests_until, self._clock.monotonic() + seconds)

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        await self.health.close(self.members)

    def _choose(self, avoid: Member | None = None) -> Member | None:
        now = self._clock.monotonic()
        members = [member for member in self.members if member.is_open(now)]
        if not members:
            self._look_again(now)
            return None
        if len(members) == 1:
            return members[0]
        return min(members, key=lambda member: (member is avoid, member.load))

    def _look_again(self, now: float) -> None:
        """Wake the waiters once a rest or a cool-down is over, or once `rpm` or `tpm` lets in another request.
        A timer of uvloop may fire a moment early: the wake that finds everything closed still sets the next one."""
        waits = [wait for member in self.members if (wait := member.opens_in(now)) is not None]
        if not waits:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(min(waits), _LEAST_WAIT)
        if self._opening is not None:
            if self._opening.when() <= at:
                return
            self._opening.cancel()
        self._opening = loop.call_at(at, self._opened)

    def _opened(self) -> None:
        self._opening = None
        self._wake()

    def _wake(self) -> None:
        """Give the places that are free to those whose turn it is."""
        while self._waiters and (member := self._choose()) is not None:
            ticket = self._waiters.pop()
            waiter = ticket.item
            if not waiter.place.done():
                other = self._choose(waiter.avoid) if member is waiter.avoid else None
                waiter.place.set_result(self._placed(other or member, ticket.share))

    def _placed(self, member: Member, share: Share) -> Member:
        now = self._clock.monotonic()
        member.in_flight += 1
        member.breaker.admit(now)
        member.flights.allowance.take(now)
        self._waiters.take(share)
        return member
