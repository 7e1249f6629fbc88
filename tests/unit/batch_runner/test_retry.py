"""What follows a failed attempt."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.retry import MAX_RETRY_AFTER, Failure, RetryPolicy, Spent, is_retryable, parse_retry_after

POLICY = RetryPolicy(max_attempts=3, base=0.5, cap=8.0, budgets={Failure.THROTTLED: 5, Failure.TIMED_OUT: 2})


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 599])
def test_statuses_that_may_pass_are_tried_again(status: int) -> None:
    assert is_retryable(status)


@pytest.mark.parametrize("status", [200, 201, 301, 400, 401, 403, 404, 413, 422])
def test_every_other_status_is_the_lines_own_result(status: int) -> None:
    assert not is_retryable(status)


def test_a_server_that_is_away_costs_no_attempt() -> None:
    spent = Spent().after(Failure.UNREACHABLE).after(Failure.UNREACHABLE)
    assert (spent.attempts, spent.total) == (0, 0)
    assert not POLICY.is_spent(spent)


def test_throttling_has_a_budget_of_its_own() -> None:
    spent = Spent()
    for _ in range(4):
        spent = spent.after(Failure.THROTTLED)
    assert not POLICY.is_spent(spent)
    assert POLICY.is_spent(spent.after(Failure.THROTTLED))


@pytest.mark.parametrize("failure", [Failure.REFUSED, Failure.BROKEN, Failure.MALFORMED, Failure.ABORTED])
def test_failures_are_counted_up_to_the_limit(failure: Failure) -> None:
    spent = Spent().after(failure).after(failure)
    assert not POLICY.is_spent(spent)
    assert POLICY.is_spent(spent.after(failure))


def test_failures_of_different_kinds_add_up() -> None:
    spent = Spent().after(Failure.REFUSED).after(Failure.BROKEN).after(Failure.THROTTLED)
    assert (spent.attempts, spent.total) == (2, 3)
    assert not POLICY.is_spent(spent)
    assert POLICY.is_spent(spent.after(Failure.ABORTED))


@pytest.mark.parametrize("failure", list(Failure))
def test_each_kind_of_failure_may_have_a_budget_of_its_own(failure: Failure) -> None:
    policy = RetryPolicy(max_attempts=9, base=0.5, cap=8.0, budgets={failure: 2})
    assert not policy.is_spent(Spent().after(failure))
    assert policy.is_spent(Spent().after(failure).after(failure))


def test_a_line_is_not_tried_for_longer_than_it_may() -> None:
    policy = RetryPolicy(max_attempts=9, base=0.5, cap=8.0, max_seconds=10.0)
    spent = Spent().after(Failure.REFUSED, 4.0).waited(2.0)
    assert not policy.is_spent(spent)
    assert policy.is_spent(spent.after(Failure.REFUSED, 4.0))


@given(attempts=st.integers(1, 10_000), seed=st.integers())
def test_a_wait_is_never_longer_than_its_bounds(attempts: int, seed: int) -> None:
    delay = POLICY.delay(Spent({Failure.REFUSED: attempts}), random.Random(seed))
    assert 0 <= delay <= min(POLICY.cap, POLICY.base * 2.0 ** min(attempts - 1, 32))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("86400", MAX_RETRY_AFTER),
        ("inf", MAX_RETRY_AFTER),
        ("nan", None),
        ("Wed, 21 Oct 2015 07:28:30 +99999999999999999", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=1_445_412_480.0) == seconds
