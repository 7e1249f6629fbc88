"""The period of a spend query, as LiteLLM's clients name it."""

import re
from datetime import UTC, date, datetime, time, timedelta

from batchyard.common.errors import InvalidRequest

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_UNIX_SECONDS = re.compile(r"[0-9]{1,11}", re.ASCII)


def period(start_date: str | None, end_date: str | None) -> tuple[int | None, int | None]:
    """Start (inclusive) and end (exclusive) in Unix seconds.

    A date is a whole UTC day, so that an `end_date` of `2026-01-31` includes that day; a number is a Unix second.

    Raises:
        InvalidRequest: One is neither.
    """
    return _moment(start_date, "start_date", timedelta()), _moment(end_date, "end_date", timedelta(days=1))


def _moment(value: str | None, param: str, after_midnight: timedelta) -> int | None:
    if not value:
        return None
    if _UNIX_SECONDS.fullmatch(value):
        return int(value)
    try:
        midnight = datetime.combine(_day(value), time(), UTC)
        return int((midnight + after_midnight).timestamp())
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"Invalid value for '{param}': expected a date like '2026-01-31' or Unix seconds, but got '{value}'.",
            param=param,
            code="invalid_value",
        ) from error


def _day(value: str) -> date:
    # `fromisoformat` alone would also take weeks and dates without hyphens.
    if not _DAY.fullmatch(value):
        raise ValueError(value)
    return date.fromisoformat(value)
