"""Periods of budgets on the calendar."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.common.periods import EVER, check_duration, period_at

NOW = datetime(2026, 2, 18, 13, 45, 30, tzinfo=UTC).timestamp()  # a Wednesday
DURATIONS = ("1s", "30s", "30m", "24h", "1d", "7d", "30d", "2w", "1mo", "2mo", "3mo", "12mo", "120mo")


def iso(second: int | None) -> str:
    assert second is not None
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    ("duration", "start", "end"),
    [
        ("30s", "2026-02-18 13:45:30", "2026-02-18 13:46:00"),
        ("30m", "2026-02-18 13:30:00", "2026-02-18 14:00:00"),
        ("24h", "2026-02-18 00:00:00", "2026-02-19 00:00:00"),
        ("1d", "2026-02-18 00:00:00", "2026-02-19 00:00:00"),
        ("7d", "2026-02-16 00:00:00", "2026-02-23 00:00:00"),
        ("1w", "2026-02-16 00:00:00", "2026-02-23 00:00:00"),
        ("1mo", "2026-02-01 00:00:00", "2026-03-01 00:00:00"),
        ("3mo", "2026-01-01 00:00:00", "2026-04-01 00:00:00"),
        ("12mo", "2026-01-01 00:00:00", "2027-01-01 00:00:00"),
    ],
)
def test_a_period_lies_on_the_calendar(duration: str, start: str, end: str) -> None:
    period = period_at(duration, NOW)
    assert (iso(period.start), iso(period.end)) == (start, end)


def test_without_a_duration_nothing_is_ever_reset() -> None:
    assert period_at(None, NOW) == EVER


@pytest.mark.parametrize(
    "duration", ["", "0s", "1", "h", "-1d", "1.5h", "1 d", "1y", "١d", "121mo", "9999d", "999999999w", "x" * 100]
)
def test_what_is_no_duration_is_told(duration: str) -> None:
    with pytest.raises(ValueError, match="Supported values"):
        check_duration(duration)


@given(st.sampled_from(DURATIONS), st.integers(0, 200_000_000_000))
def test_periods_follow_one_another_without_a_gap(duration: str, now: int) -> None:
    period = period_at(duration, now)
    assert period.end is not None
    assert period.start <= now < period.end
    assert period_at(duration, period.end).start == period.end
    assert period_at(duration, period.end - 1) == period
