"""Requests and tokens per minute are never passed, and never wasted by much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.allowance import Allowance


def sent_within(allowance: Allowance, seconds: float, tokens: int | None = None, latency: float = 0.0) -> list[float]:
    """When requests are sent by one who always has another one."""
    now = 0.0
    sent: list[float] = []
    under_way: list[tuple[float, float]] = []
    while now < seconds:
        while under_way and under_way[0][0] <= now:
            _, expected = under_way.pop(0)
            allowance.end(expected, tokens, now)
        wait = allowance.closed_for(now)
        if wait > 0:
            ends = under_way[0][0] if under_way else float("inf")
            now = min(now + wait + 1e-6, max(ends, now + 1e-6))
            continue
        under_way.append((now + latency, allowance.expected))
        allowance.take(now)
        sent.append(now)
        now += 0.001
    return sent


@given(rpm=st.integers(1, 2000))
def test_no_minute_has_more_requests_than_it_may(rpm: int) -> None:
    sent = sent_within(Allowance(rpm, None, 0.0), 180)
    for start in (0.0, 17.3, 60.0, 110.0):
        assert sum(start <= at < start + 60 for at in sent) <= rpm + max(1, rpm / 60) + 1
    assert len(sent) >= 3 * rpm * 0.95 - 1


@pytest.mark.parametrize("latency", [0.0, 0.5, 8.0])
@pytest.mark.parametrize("tokens", [50, 400, 3000])
def test_tokens_are_paid_for_when_they_are_known(tokens: int, latency: float) -> None:
    tpm = 60_000
    sent = sent_within(Allowance(None, tpm, 0.0), 600, tokens, latency)
    late = [at for at in sent if at >= 300]
    assert 0.9 * 5 * tpm <= len(late) * tokens <= 1.1 * 5 * tpm


def test_what_was_never_answered_costs_no_tokens() -> None:
    allowance = Allowance(None, 60_000, 0.0)
    for _ in range(20):
        assert allowance.closed_for(0.0) == 0
        allowance.take(0.0)
        allowance.end(allowance.expected, None, 0.0)


def test_another_limit_holds_from_its_moment_on_and_lets_in_nothing_twice() -> None:
    allowance = Allowance(600, None, 0.0)
    sent = sent_within(allowance, 60)
    for now in (60.0, 60.1, 60.2):
        allowance.become(300, None, now)
        allowance.become(600, None, now)
    allowance.become(300, None, 60.3)
    more = 0
    for tenth in range(603, 1203):
        while not allowance.closed_for(tenth / 10):
            allowance.take(tenth / 10)
            more += 1
    assert len(sent) == pytest.approx(600, abs=11)
    assert more == pytest.approx(300, abs=6)


def test_a_limit_comes_and_goes() -> None:
    allowance = Allowance(None, None, 0.0)
    assert allowance.is_unlimited
    allowance.become(60, None, 0.0)
    allowance.take(0.0)
    assert allowance.closed_for(0.5) == pytest.approx(0.5)
    allowance.become(None, None, 0.5)
    assert allowance.is_unlimited
