"""How long something took, counted by buckets: from a short embedding to an answer that takes as long as it may."""

from bisect import bisect_left
from itertools import accumulate

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
"""The upper ends of the buckets, in seconds; what took longer is in one more."""


class Durations:
    """Counts by bucket. Noting one costs a fraction of a microsecond."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)

    def note(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    def at_most(self) -> list[tuple[str, int]]:
        """How many took no longer than each bound, as Prometheus has it: the bound's name, the count, `+Inf` last."""
        names = (*(str(bound) for bound in BOUNDS), "+Inf")
        return list(zip(names, accumulate(self._counts), strict=True))
