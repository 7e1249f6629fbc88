"""Which part of a limit is this runner's, of one that all runners keep together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One of `of` parts that are as equal as can be, the one with this number, from 0."""

    number: int = 0
    of: int = 1

    def whole(self, total: int) -> int:
        """Of things that cannot be split, such as requests in flight: all parts together come to the total. Nobody's
        is less than 1."""
        return max(1, total // self.of + (self.number < total % self.of))

    def rate(self, total: int | None) -> float | None:
        """Of what is counted over time; None if that is not limited."""
        return None if total is None else total / self.of
