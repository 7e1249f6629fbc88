"""Completion windows: OpenAI's `24h`, and others within a minute and thirty days."""

import re

import pytest

from batchyard.common.windows import WINDOW_PATTERN, window_seconds


@pytest.mark.parametrize(
    ("window", "seconds"),
    [
        ("24h", 86_400),
        ("1h", 3600),
        ("1m", 60),
        ("90m", 5400),
        ("7d", 604_800),
        ("30d", 2_592_000),
        ("720h", 2_592_000),
    ],
)
def test_a_window_is_a_number_of_seconds(window: str, seconds: int) -> None:
    assert window_seconds(window) == seconds


@pytest.mark.parametrize(
    "window",
    [
        "",
        "24",
        "h",
        "0h",
        "-1h",
        "1.5h",
        "24H",
        " 24h",
        "24h ",
        "24h\n",
        "31d",
        "721h",
        "30s",
        "1w",
        "٣h",
        "024h",
        "9" * 99 + "m",
    ],
    ids=ascii,
)
def test_any_other_window_is_refused_with_what_is_possible(window: str) -> None:
    with pytest.raises(ValueError, match="Supported values are: '24h'") as caught:
        window_seconds(window)
    assert f"Invalid value: '{window}'" in str(caught.value)


@pytest.mark.parametrize("unit", ["m", "h", "d"])
def test_the_pattern_for_documents_takes_the_same_windows(unit: str) -> None:
    for count in range(50_000):
        window = f"{count}{unit}"
        try:
            window_seconds(window)
            is_taken = True
        except ValueError:
            is_taken = False
        assert bool(re.search(WINDOW_PATTERN, window)) is is_taken, window
