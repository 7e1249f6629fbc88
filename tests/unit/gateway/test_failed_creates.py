"""What the gateway takes for a retry of what it could not answer."""

import pytest

from batchyard.common.clock import ManualClock
from batchyard.common.contracts.batches import RETRY_WINDOW
from batchyard.gateway.failed_creates import UNTOLD_WINDOW, FailedCreates


@pytest.mark.parametrize(
    ("retries", "seconds", "is_repeated"),
    [
        (1, 0, True),
        (2, RETRY_WINDOW, True),
        (1, RETRY_WINDOW + 1, False),
        (None, UNTOLD_WINDOW, True),
        (None, UNTOLD_WINDOW + 1, False),
        (0, 0, False),
    ],
)
def test_a_wish_that_failed_is_known_again(retries: int | None, seconds: float, is_repeated: bool) -> None:
    clock = ManualClock()
    memory = FailedCreates(clock)
    first = memory.attempt("a", None)
    memory.remember("a", first)
    clock.advance(seconds)
    again = memory.attempt("a", retries)
    assert (again == first) is is_repeated
    assert again.again is (not is_repeated and bool(retries))


def test_a_wish_that_was_answered_is_not_remembered() -> None:
    memory = FailedCreates(ManualClock())
    assert memory.attempt("a", None).token != memory.attempt("a", None).token


def test_another_wish_is_no_retry() -> None:
    memory = FailedCreates(ManualClock())
    memory.remember("a", memory.attempt("a", None))
    assert not memory.attempt("b", None).again


def test_each_of_two_that_failed_is_repeated_once() -> None:
    memory = FailedCreates(ManualClock())
    tries = [memory.attempt("a", 0), memory.attempt("a", 0)]
    for one in tries:
        memory.remember("a", one)
    again = [memory.attempt("a", 1), memory.attempt("a", 1)]
    assert again == tries
    assert memory.attempt("a", 1).again


def test_a_try_may_fail_time_after_time() -> None:
    memory = FailedCreates(ManualClock())
    first = memory.attempt("a", None)
    for _ in range(100):
        memory.remember("a", memory.attempt("a", None) if _ else first)
    assert memory.attempt("a", None) == first


def test_only_so_much_is_remembered() -> None:
    memory = FailedCreates(ManualClock(), wishes=3)
    for wish in range(10):
        for _ in range(50):
            memory.remember(str(wish), memory.attempt(str(wish), 0))
    assert list(memory._failed) == ["7", "8", "9"]
    assert all(len(failed) <= 16 for failed in memory._failed.values())
