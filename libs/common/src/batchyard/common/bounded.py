"""Memories that do not grow for ever."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V, most: int) -> None:
    """Note a value, and forget those that were noted first so that there are no more than `most`."""
    while len(known) >= most:
        del known[next(iter(known))]
    known[key] = value
