"""The circuit breaker, in simulated time."""

import pytest

from batchyard.batch_runner.breaker import Breaker, BreakerRules, Circuit


class Bench:
    """A breaker and the time."""

    def __init__(self, failures: int = 5, cap: float = 30.0) -> None:
        self.breaker = Breaker(BreakerRules(failures, cap))
        self.now = 100.0

    def state(self) -> Circuit:
        return self.breaker.state(self.now)

    def fail(self, times: int = 1, others: float | None = 0.0) -> None:
        for _ in range(times):
            self.breaker.failed(self.now, self.now, others=others)

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.succeeded(self.now, self.now)

    def admitted(self, most: int = 1000) -> int:
        """As many requests as it lets through now, up to `most`."""
        count = 0
        while count < most and self.breaker.closed_for(self.now) == 0.0:
            self.breaker.admit(self.now)
            count += 1
        return count

    def cool_down(self) -> float:
        """Wait until it lets a request through; the seconds that took."""
        wait = self.breaker.closed_for(self.now)
        assert wait is not None
        self.now += wait
        return wait


def test_failures_in_a_row_open_it() -> None:
    bench = Bench()
    bench.fail(4)
    assert bench.state() is Circuit.CLOSED
    bench.fail()
    assert bench.state() is Circuit.OPEN
    assert bench.admitted() == 0


def test_an_answer_in_between_begins_the_count_anew() -> None:
    bench = Bench()
    for _ in range(10):
        bench.fail(4, others=1.0)
        bench.succeed()
    assert bench.state() is Circuit.CLOSED


def test_every_other_failure_opens_it_when_others_do_better() -> None:
    bench = Bench()
    for _ in range(10):
        bench.succeed()
        bench.fail(others=0.1)
    assert bench.state() is Circuit.OPEN


def test_every_other_failure_does_not_open_it_when_others_do_no_better() -> None:
    bench = Bench()
    for _ in range(100):
        bench.succeed()
        bench.fail(others=0.4)
    assert bench.state() is Circuit.CLOSED


def test_it_stays_closed_when_there_is_nobody_else() -> None:
    bench = Bench()
    bench.fail(100, others=None)
    assert bench.state() is Circuit.CLOSED


def test_it_lets_a_few_requests_through_after_its_cool_down_and_is_closed_by_their_success() -> None:
    bench = Bench()
    bench.fail(5)
    assert bench.cool_down() == 0.5
    assert bench.state() is Circuit.HALF_OPEN
    assert bench.admitted() == 3
    bench.succeed(2)
    assert bench.state() is Circuit.HALF_OPEN
    bench.succeed()
    assert bench.state() is Circuit.CLOSED
    assert bench.admitted() == 1000


def test_probes_that_take_long_are_followed_by_more_but_ever_more_slowly() -> None:
    bench = Bench()
    bench.fail(5)
    bench.cool_down()
    waits = []
    for _ in range(4):
        assert bench.admitted() == 3
        waits.append(bench.cool_down())
    assert waits == [5.0, 10.0, 20.0, 40.0]


def test_each_failed_probe_makes_the_cool_down_longer_up_to_its_cap() -> None:
    bench = Bench(cap=3.0)
    bench.fail(5)
    cooled = []
    for _ in range(5):
        cooled.append(bench.cool_down())
        bench.admitted(1)
        bench.fail()
    assert cooled == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert bench.breaker.times_opened == 6


def test_trouble_soon_after_trouble_is_cooled_down_longer() -> None:
    bench = Bench()
    bench.fail(5)
    bench.cool_down()
    bench.admitted(1)
    bench.succeed(3)
    bench.fail(5)
    assert bench.cool_down() == 1.0


def test_trouble_long_ago_is_forgotten() -> None:
    bench = Bench()
    bench.fail(5)
    bench.cool_down()
    bench.admitted(1)
    bench.succeed(3 + 50)
    bench.fail(5)
    assert bench.cool_down() == 0.5


@pytest.mark.parametrize("is_closed_again", [False, True])
def test_what_was_under_way_when_it_opened_says_nothing_new(is_closed_again: bool) -> None:
    bench = Bench()
    began = bench.now
    bench.now += 1
    bench.fail(5)
    bench.cool_down()
    bench.admitted(1)
    if is_closed_again:
        bench.succeed(3)
    before = bench.state()
    for _ in range(10):
        assert not bench.breaker.failed(began, bench.now, others=0.0)
        assert not bench.breaker.succeeded(began, bench.now)
    assert bench.state() is before


def test_one_that_is_down_waits_for_no_time() -> None:
    bench = Bench()
    bench.breaker.trip(bench.now)
    bench.now += 1e6
    assert bench.state() is Circuit.OPEN
    assert bench.breaker.closed_for(bench.now) is None
    bench.breaker.answers(bench.now)
    assert bench.state() is Circuit.HALF_OPEN
    assert bench.admitted() == 3


def test_a_half_open_one_that_fails_alone_is_closed_since_waiting_helps_nobody() -> None:
    bench = Bench()
    bench.breaker.trip(bench.now)
    bench.breaker.answers(bench.now)
    bench.admitted(1)
    bench.fail(others=None)
    assert bench.state() is Circuit.CLOSED
