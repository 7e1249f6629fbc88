"""Whose turn it is, in simulated time: a pool of places, and batches that always want more than they get."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.batch_runner.fairness import Claim, FairQueue, Ticket
from batchyard.batch_runner.pace import Pace, Paces

LOOK_SECONDS = 3.0


@dataclass
class Job:
    """A batch in simulated time: `seconds` is what the servers take for one of its lines."""

    tenant: str
    name: str
    lines: int
    seconds: float = 1.0
    arrives: float = 0.0
    deadline: float | None = None
    claim: Claim | None = None
    done: int = 0
    pace: Pace = field(default_factory=Pace)


class Fifo:
    """What there was before: whoever waits longest has the next turn."""

    def __init__(self, head_start: int = 0) -> None:
        self._fair: FairQueue[Job] = FairQueue(head_start)
        self._waiting: deque[Ticket[Job]] = deque()
        self.open, self.close = self._fair.open, self._fair.close
        self.take, self.give_back = self._fair.take, self._fair.give_back

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, claim: Claim, item: Job) -> Ticket[Job]:
        self._waiting.append(Ticket(claim.share, item))
        return self._waiting[-1]

    def pop(self) -> Ticket[Job]:
        return self._waiting.popleft()


class Simulation:
    """A pool and its clock. All lines of a job wait from its arrival on."""

    def __init__(self, jobs: list[Job], places: int, queue: "FairQueue[Job] | Fifo") -> None:
        self._places = places
        self._queue = queue
        self._events: list[tuple[float, int, Callable[[float, Job], None], Job]] = []
        self._numbers = count()
        self.ended: dict[str, float] = {}
        for job in jobs:
            self._at(job.arrives, self._arrive, job)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            now, _, happens, job = heapq.heappop(self._events)
            happens(now, job)
            while self._places and len(self._queue):
                ticket = self._queue.pop()
                self._queue.take(ticket.share)
                self._places -= 1
                self._at(now + ticket.item.seconds, self._end, ticket.item)

    def _at(self, when: float, happens: Callable[[float, Job], None], job: Job) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happens, job))

    def _arrive(self, now: float, job: Job) -> None:
        job.claim = self._queue.open(job.tenant, job.name)
        for _ in range(job.lines):
            self._queue.push(job.claim, job)
        if job.deadline is not None:
            self._look(now, job)

    def _look(self, now: float, job: Job) -> None:
        assert job.claim is not None
        assert job.deadline is not None
        if job.done < job.lines:
            job.pace.note(now, job.lines - job.done)
            job.claim.share.hurry(job.pace.is_late(now, job.deadline))
            self._at(now + LOOK_SECONDS, self._look, job)

    def _end(self, now: float, job: Job) -> None:
        assert job.claim is not None
        self._queue.give_back(job.claim.share)
        self._places += 1
        job.done += 1
        if job.done == job.lines:
            self.ended[job.name] = now
            self._queue.close(job.claim)


def simulate(
    jobs: list[Job], places: int, until: float = float("inf"), queue: "FairQueue[Job] | Fifo | None" = None
) -> dict[str, float]:
    """Run the jobs on so many places; when each was done, of those that were."""
    simulation = Simulation(jobs, places, FairQueue(500) if queue is None else queue)
    simulation.run(until)
    return simulation.ended


# --- shares


@pytest.mark.parametrize("others", [1, 2, 7])
def test_tenants_share_alike_however_many_batches_they_have(others: int) -> None:
    jobs = [Job("a", f"a{n}", 3000, 0.5 + n / 10) for n in range(others)] + [Job("b", "b0", 3000, 0.7)]
    simulate(jobs, places=8, until=200)
    used = [job.done * job.seconds for job in jobs]
    assert used[-1] / sum(used) == pytest.approx(0.5, abs=0.03)


def test_the_batches_of_a_tenant_share_alike_what_is_its_own() -> None:
    jobs = [Job("a", f"a{n}", 3000) for n in range(4)] + [Job("b", "b0", 3000)]
    simulate(jobs, places=16, until=200)
    shares = [job.done / sum(other.done for other in jobs) for job in jobs]
    assert shares == pytest.approx([1 / 8] * 4 + [1 / 2], abs=0.02)


def test_who_sends_long_requests_holds_no_more_of_the_servers() -> None:
    long, short = Job("a", "long", 3000, 10.0), Job("b", "short", 3000, 1.0)
    simulate([long, short], places=10, until=500)
    assert long.done * 10 / (short.done * 1) == pytest.approx(1, abs=0.1)


def test_a_place_that_nobody_else_wants_goes_to_who_does() -> None:
    assert simulate([Job("a", "a", 1000)], places=10) == {"a": pytest.approx(100)}


# --- small batches behind large ones


def alone(lines: int, places: int) -> float:
    return simulate([Job("a", "alone", lines)], places)["alone"]


@pytest.mark.parametrize("places", [1, 4, 16, 64])
@pytest.mark.parametrize("larger", [1, 3])
def test_a_small_batch_behind_large_ones_takes_no_longer_than_twice_its_time_alone(places: int, larger: int) -> None:
    jobs = [Job("a", f"large{n}", 20_000 // larger) for n in range(larger)]
    small = Job("a", "small", 100, arrives=500.0 * larger / places + 0.5)
    took = simulate([*jobs, small], places, until=2000)["small"] - small.arrives
    running_out = 1.0  # what is in flight is not interrupted
    assert took <= 2 * alone(100, places) + running_out


@pytest.mark.parametrize("places", [1, 4, 16, 64])
def test_a_small_batch_of_another_tenant_goes_ahead_like_one_of_the_same(places: int) -> None:
    def behind(tenant: str) -> float:
        small = Job(tenant, "small", 100, arrives=500.0 / places + 0.5)
        return simulate([Job("a", "large", 9_000), small], places, until=2000)["small"] - small.arrives

    assert behind("b") <= behind("a") + 1.0  # what is in flight is not interrupted
    assert behind("b") <= 1.5 * alone(100, places) + 1.0


def test_a_tenant_goes_ahead_for_as_many_turns_as_it_has_left_to_the_others() -> None:
    """Three of four turns while it goes ahead, then each second one."""
    stayed, back = Job("a", "stayed", 9_000), Job("b", "back", 9_000, arrives=60.5)
    simulate([stayed, back], places=4, until=60.5 + 80)
    assert back.done == pytest.approx(240, abs=5)
    simulate([stayed, back := Job("b", "back", 9_000, arrives=60.5)], places=4, until=60.5 + 180)
    assert back.done == pytest.approx(240 + 200, abs=5)


def comes_and_goes(lines: int) -> tuple[list[Job], dict[str, float]]:
    """A tenant with a batch a minute beside one that is always there, where 240 lines a minute are done."""
    row = [Job("b", f"b{n}", lines, arrives=60.0 + n * 60) for n in range(20)]
    return row, simulate([Job("a", "stayed", 9_000), *row], places=4, until=60.0 + 20 * 60)


def test_a_tenant_that_comes_and_goes_has_what_it_left() -> None:
    row, ended = comes_and_goes(100)
    assert all(ended[job.name] - job.arrives <= 100 / 4 * 4 / 3 + 2 for job in row)


def test_a_tenant_that_comes_and_goes_gets_no_more_than_its_share() -> None:
    row, _ = comes_and_goes(140)
    assert sum(job.done for job in row) == pytest.approx(20 * 240 / 2, rel=0.05)


def test_one_after_another_the_small_batch_would_wait_for_the_whole_large_one() -> None:
    small = Job("a", "small", 100, arrives=20.5)
    ended = simulate([Job("a", "large", 9_000), small], 16, queue=Fifo())
    assert ended["small"] > 20 * 2 * alone(100, 16)


def test_an_endless_row_of_small_batches_leaves_the_large_one_a_quarter() -> None:
    large = Job("a", "large", 9_000)
    row = [Job("a", f"small{n}", 100, arrives=125.5 + n * 5) for n in range(200)]
    simulate([large, *row], places=4, until=725.5)
    assert large.done - 500 == pytest.approx(600, abs=10)


def test_an_endless_row_of_new_tenants_leaves_no_one_waiting() -> None:
    """One more comes each time the only place is free."""
    first = Job("first", "first", 100)
    row = [Job(f"t{n}", f"b{n}", 1, arrives=float(n)) for n in range(200)]
    simulate([*row, first], places=1, until=200)
    assert first.done == pytest.approx(200 / 4, abs=3)


# --- deadlines


def test_a_batch_that_would_be_late_gets_through_in_time_and_the_others_get_on() -> None:
    """It needs more than half of the servers, and a fifth would be its share."""
    others = [Job(f"t{n}", f"other{n}", 9_000) for n in range(4)]
    hurried = Job("h", "hurried", 5_400, deadline=600.0)
    ended = simulate([*others, hurried], places=16, until=600)
    assert ended["hurried"] <= 600
    for other in others:
        assert other.done >= 600 * 16 * 0.25 / 4 * 0.9


def test_without_a_deadline_the_same_batch_would_not_be_done() -> None:
    others = [Job(f"t{n}", f"other{n}", 9_000) for n in range(4)]
    ended = simulate([*others, Job("h", "hurried", 5_400)], places=16, until=600)
    assert "hurried" not in ended


def test_a_batch_with_time_enough_does_not_go_ahead() -> None:
    other, easy = Job("a", "other", 9_000), Job("b", "easy", 1_000, deadline=86_400.0)
    simulate([other, easy], places=16, until=100)
    assert other.done == pytest.approx(800, abs=20)


def test_a_batch_that_cannot_be_done_in_time_takes_no_more_than_three_quarters() -> None:
    other, hopeless = Job("a", "other", 9_000), Job("b", "hopeless", 9_000, deadline=300.0)
    simulate([other, hopeless], places=16, until=300)
    assert other.done >= 300 * 16 * 0.24


@pytest.mark.parametrize(
    ("seen", "now", "deadline", "late"),
    [
        pytest.param([], 0, 1, False, id="nothing is known"),
        pytest.param([(0, 100)], 0, 3600, False, id="has only begun"),
        pytest.param([(0, 100)], 0, 50, True, id="has only begun, in its last minute"),
        pytest.param([(0, 1000), (10, 900)], 10, 130, False, id="ends in time with some to spare"),
        pytest.param([(0, 1000), (10, 900)], 10, 120, True, id="would end at the last moment"),
        pytest.param([(0, 1000), (10, 900), (13, 950)], 13, 110, True, id="what was seen done is done"),
        pytest.param([(0, 3000), (10, 1000), (40, 990), (41, 990)], 41, 1000, True, id="was faster once"),
        pytest.param([(0, 1000), (0, 900)], 0, 3600, False, id="two looks at the same time"),
    ],
)
def test_who_is_late(seen: list[tuple[float, int]], now: float, deadline: float, late: bool) -> None:
    pace = Pace()
    for when, remaining in seen:
        pace.note(when, remaining)
    assert pace.is_late(now, deadline) is late


def test_paces_are_kept_of_the_batches_that_were_looked_at_last() -> None:
    paces = Paces()
    kept = paces.of("kept")
    lost = paces.of("lost")
    for number in range(999):
        assert paces.of("kept") is kept
        paces.of(str(number))
    assert paces.of("lost") is not lost


# --- nobody starves, nobody is forgotten

TENANTS = st.sampled_from(["a", "b", "c"])
JOBS = st.lists(
    st.tuples(TENANTS, st.integers(1, 40), st.floats(0.1, 9), st.floats(0, 30), st.booleans()), min_size=1, max_size=9
)


@settings(max_examples=50)
@given(JOBS, st.integers(1, 5), st.integers(0, 20))
def test_every_batch_ends_whatever_the_others_are(
    drawn: list[tuple[str, int, float, float, bool]], places: int, head_start: int
) -> None:
    jobs = [
        Job(tenant, str(n), lines, seconds, arrives, arrives + 20 if hurries else None)
        for n, (tenant, lines, seconds, arrives, hurries) in enumerate(drawn)
    ]
    assert len(simulate(jobs, places, queue=FairQueue(head_start))) == len(jobs)


@settings(max_examples=50)
@given(st.lists(st.tuples(TENANTS, st.booleans()), min_size=1, max_size=12), st.integers(0, 30))
def test_nobody_waits_for_more_turns_than_four_for_each_who_waits(
    batches: list[tuple[str, bool]], head_start: int
) -> None:
    queue: FairQueue[int] = FairQueue(head_start)
    claims = [queue.open(tenant, str(n)) for n, (tenant, _) in enumerate(batches)]
    for claim, (_, is_late) in zip(claims, batches, strict=True):
        claim.share.hurry(is_late)
    for number, claim in enumerate(claims):
        queue.push(claim, number)
    last = dict.fromkeys(range(len(claims)), 0)
    for turn in range(1, 800):
        ticket = queue.pop()
        queue.take(ticket.share)
        queue.give_back(ticket.share)
        queue.push(claims[ticket.item], ticket.item)
        last[ticket.item] = turn
        # A quarter of a quarter goes to who neither is late nor has just begun.
        assert turn - min(last.values()) <= 16 * len({tenant for tenant, _ in batches}) * len(batches)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "withdraw", "again"]), st.integers(0, 9)), max_size=120))
def test_who_waits_has_exactly_one_turn_unless_it_goes(actions: list[tuple[str, int]]) -> None:
    queue: FairQueue[int] = FairQueue(3)
    claims = [queue.open("ab"[n % 2], str(n // 2)) for n in range(10)]
    tickets: list[Ticket[int]] = []
    waiting: set[int] = set()
    for number, (action, which) in enumerate(actions):
        if action == "push":
            tickets.append(queue.push(claims[which], number))
            waiting.add(number)
        elif action == "pop" and waiting:
            ticket = queue.pop()
            queue.take(ticket.share)
            waiting.remove(ticket.item)
        elif action != "pop" and tickets:
            ticket = tickets[which % len(tickets)]
            queue.withdraw(ticket)
            waiting.discard(ticket.item)
        assert len(queue) == len(waiting)
    assert {ticket.item for ticket in queue.drain()} == waiting
    with pytest.raises(LookupError):
        queue.pop()


def test_the_older_shard_of_a_batch_goes_first_and_its_lines_in_their_order() -> None:
    queue: FairQueue[str] = FairQueue(0)
    older, newer = queue.open("a", "b"), queue.open("a", "b")
    for claim, item in [(newer, "n1"), (older, "o1"), (newer, "n2"), (older, "o2")]:
        queue.push(claim, item)
    assert [ticket.item for ticket in queue.drain()] == ["o1", "o2", "n1", "n2"]


def test_a_batch_is_known_as_long_as_a_shard_of_it_is_here() -> None:
    queue: FairQueue[str] = FairQueue(0)
    first, second, other = queue.open("a", "x"), queue.open("a", "x"), queue.open("a", "y")
    assert first.share is second.share
    queue.close(first)
    assert queue.batches == {"x", "y"}
    queue.close(second)
    assert queue.batches == {"y"}
    queue.close(other)
    assert queue.open("a", "x").share is not first.share


def test_a_batch_that_comes_back_is_no_beginner_again() -> None:
    queue: FairQueue[str] = FairQueue(2)
    claim = queue.open("a", "x")
    for _ in range(2):
        queue.take(claim.share)
        queue.give_back(claim.share)
    queue.close(claim)
    back, beginner = queue.open("a", "x"), queue.open("a", "y")
    queue.push(back, "back")
    queue.push(beginner, "beginner")
    assert queue.pop().item == "beginner"
