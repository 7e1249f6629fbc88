"""Sets of whole numbers as ascending ranges `[from, to)` that neither overlap nor touch: small where numbers are close
together, however many there are."""

from collections.abc import Iterable, Iterator

Ranges = tuple[tuple[int, int], ...]


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The numbers of any ranges, however they lie."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def added(ranges: Ranges, number: int) -> Ranges:
    """`ranges` and one number more."""
    return joined((*ranges, (number, number + 1)))


def removed(ranges: Ranges, number: int) -> Ranges:
    """`ranges` without a number."""
    return joined(
        part
        for start, end in ranges
        for part in (((start, number), (number + 1, end)) if start <= number < end else ((start, end),))
    )


def holds(ranges: Ranges, number: int) -> bool:
    """Whether a number is among them."""
    return any(start <= number < end for start, end in ranges)


def numbers(ranges: Ranges) -> Iterator[int]:
    """All of them, in ascending order."""
    return (number for start, end in ranges for number in range(start, end))


def gaps(ranges: Ranges, below: int) -> Iterator[int]:
    """The numbers from 0 to `below` that are not among them, in ascending order."""
    cursor = 0
    for start, end in (*ranges, (below, below)):
        yield from range(cursor, min(start, below))
        cursor = end
