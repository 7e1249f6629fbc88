"""Completion windows: `24h`, and the others that OpenAI does not have (`30m`, `1h`, `7d`)."""

import re

MIN_SECONDS = 60
MAX_SECONDS = 30 * 86_400

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
