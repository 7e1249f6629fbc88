"""Whose shards may be queued: the tenants of a pool share its queue, and each tenant's batches take turns in what is
theirs. No I/O.

A runner shares its servers between the shards that it has taken. With more batches than the runners can take shards the
queue before them would decide, first come, first served, and a tenant with a thousand batches would have all others
wait. So no more is queued than runners can take; other batches stand in the records, and are queued when it is their
turn. What follows from a look at the records may be a moment old: a shard more or less does no harm.
"""

from collections.abc import Iterable
from dataclasses import dataclass

_RESERVE = 8  # one slot of so many is kept for tenants that come
_URGENT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch that is in progress, on one pool.

    Attributes:
        queued: Its shards that wait in the queue or are run.
        unqueued: Those that are neither yet nor done.
        changed: Grows with every change of any batch: the lower, the longer ago its last turn.
        expires_at: Unix seconds.
    """

    key: str
    tenant: str
    pool: str
    queued: int
    unqueued: int
    changed: int
    expires_at: float


def may_queue(batch: Standing, standings: Iterable[Standing], slots: int, now: float) -> int:
    """How many more of its shards a batch may queue now.

    Args:
        standings: All batches of all pools; the batch itself may be among them as it was before.
        slots: Shards that all runners together take of the pool.
        now: Unix seconds.
    """
    on_pool = [one for one in standings if one.pool == batch.pool and one.key != batch.key]
    room = _room(batch.tenant, [*on_pool, batch], slots)
    candidates = _in_turn([*on_pool, batch], batch.tenant, now)
    if batch not in candidates[: max(room, 0)]:
        return 0
    return max(1, room // (len(candidates) + 1))  # as if one more were there: the next one that comes finds room


def next_in_turn(pool: str, standings: Iterable[Standing], slots: int, now: float) -> list[Standing]:
    """The batches of a pool with nothing queued whose turn it is."""
    on_pool = [one for one in standings if one.pool == pool]
    turns = []
    for tenant in dict.fromkeys(one.tenant for one in on_pool):
        room = max(0, _room(tenant, on_pool, slots))
        turns += [one for one in _in_turn(on_pool, tenant, now)[:room] if not one.queued]
    return turns


def _room(tenant: str, on_pool: list[Standing], slots: int) -> int:
    """How many more shards a tenant may queue; a tenant that has none may always queue one."""
    tenants = {one.tenant for one in on_pool}
    quota = max(1, (slots - slots // _RESERVE) // len(tenants))
    return quota - sum(one.queued for one in on_pool if one.tenant == tenant)


def _in_turn(on_pool: list[Standing], tenant: str, now: float) -> list[Standing]:
    """A tenant's batches that could queue more: those near their deadline first, then those with the fewest queued; of
    equals, the one whose last turn is longest ago."""
    own = [one for one in on_pool if one.tenant == tenant and one.unqueued]
    return sorted(own, key=lambda one: (one.expires_at - now > _URGENT_SECONDS, one.queued, one.changed))
