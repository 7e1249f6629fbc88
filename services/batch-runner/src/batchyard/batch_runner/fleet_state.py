"""The fleet as it is shown: a picture of what this process knows."""

from dataclasses import asdict
from typing import Literal

from yarl import URL

from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.steering import Steering
from batchyard.common.clock import Clock
from batchyard.common.contracts.fleet import DeploymentCounters, DeploymentState, LimitCut, RunnerView, ServerLoad


def fleet_state(runner: str, fleet: Fleet, clock: Clock) -> RunnerView:
    """Every deployment, in the order of the configuration."""
    members = (member for pool in fleet.pools.values() for member in pool.members)
    return RunnerView(runner=runner, data=[_state(member, clock) for member in members])


def _state(member: Member, clock: Clock) -> DeploymentState:
    deployment, steering, traffic = member.deployment, member.steering, member.flights.traffic
    now = clock.monotonic()
    rest = max(member.rests_until - now, member.breaker.closed_for(now) or 0.0)
    counters = {name: value for name, value in asdict(traffic).items() if name in DeploymentCounters.model_fields}
    return DeploymentState(
        id=deployment.id,
        model=deployment.pool,
        api_base=str(URL(deployment.base_url).with_user(None)),  # without a password
        status="down" if member.down else "resting" if rest > 0 else "up",
        rests_until=round(clock.now() + rest, 3) if rest > 0 else None,
        circuit=member.breaker.state(now).value,
        limit=member.limit,
        max_parallel_requests=member.ceiling,
        in_flight=member.in_flight,
        mode=_mode(steering),
        reason=None if steering is None else steering.reason.value,
        load=None if steering is None else _load(steering),
        cuts=() if steering is None else _cuts(steering),
        counters=DeploymentCounters(**counters, tokens_lost=traffic.tokens_lost),
    )


def _mode(steering: Steering | None) -> Literal["metrics", "latency", "fixed"] | None:
    if steering is None:
        return "fixed"
    return None if steering.mode is None else steering.mode.value


def _load(steering: Steering) -> ServerLoad | None:
    load = steering.load
    if load is None or steering.seen_at is None:
        return None
    return ServerLoad(
        at=round(steering.seen_at, 3),
        running=load.running,
        waiting=load.waiting,
        kv_cache_usage=load.kv_usage,
        others=steering.others,
    )


def _cuts(steering: Steering) -> tuple[LimitCut, ...]:
    return tuple(
        LimitCut(at=round(cut.at, 3), reason=cut.reason.value, before=cut.before, after=cut.after)
        for cut in reversed(steering.cuts)
    )
