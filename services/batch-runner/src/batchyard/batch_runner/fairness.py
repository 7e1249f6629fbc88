"""Whose line gets the next place on a pool: tenants share it alike, and the batches of a tenant share what is theirs.

A share is counted in places, not in lines: who sends long requests holds no more of the servers than who sends short
ones. The next place goes to the tenant that holds the fewest, and among its batches to the one that holds the fewest;
of equals, to the one whose last turn is longest ago. So nobody waits for more turns than there are others who wait.

Three kinds of batches go ahead, and none of them for more than three turns of four while others wait: those that are
late, of all tenants; those of a tenant that comes back, for as many turns as it has left to the others; and those that
have just begun, among the batches of their own tenant.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from batchyard.common.bounded import remember

_AHEAD_OF_FOUR = 3
_REMEMBERED = 1_000  # tenants, and batches, of which no shard is here

T = TypeVar("T")


class _Precedence:
    """Lets some go ahead of others, but not for ever."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def of(self, candidates: "list[Share]", goes_ahead: "Callable[[Share], bool]") -> "list[Share]":
        ahead = [share for share in candidates if goes_ahead(share)]
        if not ahead or len(ahead) == len(candidates):
            return candidates
        if self._in_a_row == _AHEAD_OF_FOUR:
            self._in_a_row = 0
            return [share for share in candidates if not goes_ahead(share)]
        self._in_a_row += 1
        return ahead


@dataclass(slots=True, eq=False)
class _Holder:
    """Somebody who holds places: how many, and when the last one was given to it."""

    places: int = 0
    turn: int = 0


@dataclass(slots=True, eq=False)
class _Tenant:
    """What all batches of a tenant hold together: those that are late, and the others. They are kept apart, so that the
    others do not pay with all of theirs for what the late ones are given ahead of everybody.

    Attributes:
        ahead: Turns for which it goes ahead of the other tenants.
    """

    name: str
    late: _Holder
    others: _Holder
    ahead: int
    beginners_first: _Precedence = field(default_factory=_Precedence)


class Share(_Holder):
    """One batch on a pool.

    Attributes:
        is_late: Whether it goes ahead so that it ends before its deadline.
        taken: Places that it has been given so far.
    """

    __slots__ = ("batch", "claims", "is_late", "taken", "tenant", "waiting")

    def __init__(self, tenant: _Tenant, batch: str, turn: int, taken: int) -> None:
        super().__init__(turn=turn)
        self.tenant = tenant
        self.batch = batch
        self.is_late = False
        self.taken = taken
        self.claims = 0
        self.waiting: list[tuple[int, int, Ticket[object]]] = []

    @property
    def among_its_kind(self) -> _Holder:
        """What its tenant's batches hold that are late if it is."""
        return self.tenant.late if self.is_late else self.tenant.others

    def hurry(self, is_late: bool) -> bool:
        """Whether it goes ahead from now on; whether that is news."""
        if is_late == self.is_late:
            return False
        self.among_its_kind.places -= self.places
        self.is_late = is_late
        self.among_its_kind.places += self.places
        return True


@dataclass(frozen=True, slots=True)
class Claim:
    """What the lines of one shard wait under. Of a batch's shards the one that came first goes first, so that shards
    are finished rather than begun."""

    share: Share
    number: int


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One line's place in the queue. `item` is what the caller knows it by."""

    share: Share
    item: T
    is_waiting: bool = True


class FairQueue(Generic[T]):
    """The lines that wait for a place on one pool.

    A turn costs a look at each batch that has waiting lines here: no more than the shards that a process takes.

    Args:
        head_start: Places for which a batch that has just begun goes ahead of its tenant's others, and a tenant that
            has left at least as many turns to the others ahead of them.
    """

    def __init__(self, head_start: int) -> None:
        self._head_start = head_start
        self._tenants: dict[str, _Tenant] = {}
        self._shares: dict[tuple[str, str], Share] = {}
        self._taken: dict[tuple[str, str], int] = {}  # by batches of which no shard is here at the moment
        self._away: dict[str, tuple[int, int]] = {}  # tenants of which none is: their `ahead`, and `_turns`, by then
        self._wanting: dict[Share, None] = {}
        self._numbers = count(1)
        self._late_first = _Precedence()
        self._back_first = _Precedence()
        self._turns = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def open(self, tenant: str, batch: str) -> Claim:
        """A claim for one more shard of a batch. Give it back with `close`."""
        number = next(self._numbers)
        share = self._shares.get((tenant, batch))
        if share is None:
            # Who comes is the last of those that hold nothing: or those who were here would wait for all who come.
            holder = self._tenants.get(tenant) or self._come(tenant, number)
            taken = self._taken.pop((tenant, batch), 0)
            share = self._shares[tenant, batch] = Share(holder, batch, number, taken)
        share.claims += 1
        return Claim(share, number)

    def close(self, claim: Claim) -> None:
        share = claim.share
        share.claims -= 1
        if share.claims == 0:
            tenant = share.tenant.name
            remember(self._taken, (tenant, share.batch), share.taken, _REMEMBERED)
            del self._shares[tenant, share.batch]
            if not any(other == tenant for other, _ in self._shares):
                remember(self._away, tenant, (share.tenant.ahead, self._turns), _REMEMBERED)
                del self._tenants[tenant]

    @property
    def batches(self) -> frozenset[str]:
        """The batches of which there are claims."""
        return frozenset(batch for _, batch in self._shares)

    def push(self, claim: Claim, item: T) -> Ticket[T]:
        """Wait for a place."""
        share = claim.share
        ticket = Ticket(share, item)
        heappush(share.waiting, (claim.number, next(self._numbers), ticket))  # type: ignore[misc]
        self._wanting[share] = None
        self._length += 1
        return ticket

    def withdraw(self, ticket: Ticket[T]) -> None:
        """Wait no longer. A ticket that has had its turn is left as it is."""
        if ticket.is_waiting:
            ticket.is_waiting = False
            self._length -= 1
            self._tidy(ticket.share)

    def pop(self) -> Ticket[T]:
        """Whose turn it is. Say with `take` that the place has been taken. Raises LookupError when nobody waits."""
        share = self._next()
        ticket: Ticket[T] = heappop(share.waiting)[2]  # type: ignore[assignment]
        ticket.is_waiting = False
        self._length -= 1
        self._tidy(share)
        return ticket

    def take(self, share: Share) -> None:
        """A batch has been given a place."""
        self._turns += 1
        share.tenant.ahead = max(0, share.tenant.ahead - 1)
        kind = share.among_its_kind
        share.turn = kind.turn = next(self._numbers)
        share.places += 1
        share.taken += 1
        kind.places += 1

    def give_back(self, share: Share) -> None:
        share.places -= 1
        share.among_its_kind.places -= 1

    def drain(self) -> Iterator[Ticket[T]]:
        """Everybody who waits, in no order; nobody does afterwards."""
        while self._length:
            yield self.pop()

    def _come(self, name: str, number: int) -> _Tenant:
        """A tenant of which there was no batch here: it had no part in the turns since then."""
        ahead, left = self._away.pop(name, (0, 0))
        ahead = min(self._head_start, ahead + self._turns - left)
        tenant = self._tenants[name] = _Tenant(name, _Holder(turn=number), _Holder(turn=number), ahead)
        return tenant

    def _next(self) -> Share:
        shares = list(self._wanting)
        if not shares:
            raise LookupError("nobody waits")
        if len(shares) == 1:
            return shares[0]
        shares = self._late_first.of(shares, lambda share: share.is_late)
        shares = self._back_first.of(shares, lambda share: share.tenant.ahead > 0)
        tenant = min(shares, key=lambda share: _held(share.among_its_kind)).tenant
        own = [share for share in shares if share.tenant is tenant]
        return min(tenant.beginners_first.of(own, lambda share: share.taken < self._head_start), key=_held)

    def _tidy(self, share: Share) -> None:
        """Forget who has gone; whose first one is here stays a candidate."""
        while share.waiting and not share.waiting[0][2].is_waiting:
            heappop(share.waiting)
        if not share.waiting:
            self._wanting.pop(share, None)


def _held(holder: _Holder) -> tuple[int, int]:
    return holder.places, holder.turn
