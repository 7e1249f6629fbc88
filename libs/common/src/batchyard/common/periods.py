"""Durations, as `30s`, `30m`, `24h`, `7d`, `1mo`, and the periods of budgets that they say, all in UTC.

A period is a window on the calendar and has no beginning of its own: one of days begins at midnight, one of seven days
on a Monday, one of months on the first of a month, and three months are a quarter. So every process that knows the
duration knows the window, whenever the budget was set.
"""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime

MOST_MONTHS = 120
_LONGEST = MOST_MONTHS * 31 * 86_400
_MONDAY = 4 * 86_400  # 5 January 1970
_DURATION = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d|w|mo)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_YEAR = 12


@dataclass(frozen=True, slots=True)
class Period:
    """A window of time in Unix seconds; `end` is exclusive, None for one without an end."""

    start: int
    end: int | None


EVER = Period(0, None)


def check_duration(duration: str) -> None:
    """Raise ValueError, with a message for the caller, unless `duration` is one."""
    _parse(duration)


def period_at(duration: str | None, now: float) -> Period:
    """The period of a duration that holds the Unix second `now`; without a duration, the one that never ends.

    Raises:
        ValueError: It is no duration.
    """
    if duration is None:
        return EVER
    number, unit = _parse(duration)
    if unit == "mo":
        return _months(number, now)
    length = number * _SECONDS[unit]
    start = _MONDAY + (int(now) - _MONDAY) // length * length
    return Period(start, start + length)


def period_or_ever(duration: str | None, now: float) -> Period:
    """The same; a duration that is none, by some error, is one without end."""
    try:
        return period_at(duration, now)
    except ValueError:
        return EVER


def later(duration: str, now: float) -> float:
    """The Unix second a duration after `now`: `1mo` is the same day and time of the next month, or its last day.

    Raises:
        ValueError: It is no duration.
    """
    number, unit = _parse(duration)
    if unit != "mo":
        return now + number * _SECONDS[unit]
    today = datetime.fromtimestamp(now, UTC)
    year, index = divmod(today.year * _YEAR + today.month - 1 + number, _YEAR)
    day = min(today.day, monthrange(year, index + 1)[1])
    return today.replace(year=year, month=index + 1, day=day).timestamp()


def _parse(duration: str) -> tuple[int, str]:
    match = _DURATION.fullmatch(duration)
    if match is not None:
        number, unit = int(match[1]), match[2]
        if number <= MOST_MONTHS if unit == "mo" else number * _SECONDS[unit] <= _LONGEST:
            return number, unit
    raise ValueError(
        f"Invalid value: '{duration[:32]}'. Supported values are a number of seconds, minutes, hours, days, weeks or "
        "months such as '30s', '30m', '24h', '7d', '2w' and '1mo', at most '120mo'."
    )


def _months(number: int, now: float) -> Period:
    today = datetime.fromtimestamp(int(now), UTC)
    first = (today.year * _YEAR + today.month - 1) // number * number
    return Period(_first_of(first), _first_of(first + number))


def _first_of(month: int) -> int:
    """The Unix second at which a month begins, counted from January of the year 0."""
    year, index = divmod(month, _YEAR)
    return int(datetime(year, index + 1, 1, tzinfo=UTC).timestamp())
