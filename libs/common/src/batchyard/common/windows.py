"""Completion windows: `24h`, and the others that OpenAI does not have (`30m`, `1h`, `7d`)."""

import re

MIN_SECONDS = 60
MAX_SECONDS = 30 * 86_400

WINDOW_PATTERN = (
    "^(([1-9]|[12][0-9]|30)d"
    "|([1-9][0-9]?|[1-6][0-9]{2}|7[01][0-9]|720)h"
    "|([1-9][0-9]{0,3}|[1-3][0-9]{4}|4[0-2][0-9]{3}|43[01][0-9]{2}|43200)m)$"
)
"""Exactly the windows that `window_seconds` takes, for documents."""

_WINDOW = re.compile(r"([1-9][0-9]{0,5})([mhd])", re.ASCII)
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def window_seconds(window: str) -> int:
    """The length of a completion window. Raises ValueError with a message for the caller."""
    match = _WINDOW.fullmatch(window)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ValueError(
            f"Invalid value: '{window}'. Supported values are: '24h', or a number of minutes, hours or days "
            "such as '30m', '1h' and '7d', at most '30d'."
        )
    return seconds
