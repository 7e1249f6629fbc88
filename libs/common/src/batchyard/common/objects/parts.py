"""How objects are joined on an S3 server: which ranges it copies itself, which ones pass through us.

A multipart upload has at most 10,000 parts, each of at least 5 MiB but for the last
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIN_PART_BYTES = 5 * 1024 * 1024
MAX_PARTS = 10_000
MAX_COPY_BYTES = 256 * 1024 * 1024  # S3 allows 5 GiB; a request for this much ends well within a timeout


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of bytes of one source; never empty."""

    key: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A part that the server copies out of one object."""

    piece: Piece


@dataclass(frozen=True, slots=True)
class PackedPart:
    """A part that is read by us, out of one or more objects, and sent."""

    pieces: tuple[Piece, ...]


Part = CopiedPart | PackedPart


def plan_parts(sources: Iterable[tuple[str, int]], pack_bytes: int) -> Iterator[Part]:
    """Cut sources, given as key and size in bytes, into the parts of their concatenation.

    A source of 5 MiB or more is copied by the server. Smaller ones are packed into parts of `pack_bytes`; a
    pack that is too small when a large source follows takes its missing bytes from that source's head.
    """
    packed: list[Piece] = []
    room = pack_bytes
    for key, size in sources:
        start = 0
        while start < size:
            rest = size - start
            filled = pack_bytes - room
            missing = max(0, MIN_PART_BYTES - filled) if filled else 0
            if rest - missing >= MIN_PART_BYTES:  # copy the rest, once the pack before it is large enough
                if missing:
                    packed.append(Piece(key, start, missing))
                    start += missing
                if packed:
                    yield PackedPart(tuple(packed))
                    packed, room = [], pack_bytes
                yield from _copies(key, start, size)
                break
            taken = min(rest, room)
            packed.append(Piece(key, start, taken))
            start, room = start + taken, room - taken
            if not room:
                yield PackedPart(tuple(packed))
                packed, room = [], pack_bytes
    if packed:
        yield PackedPart(tuple(packed))


def _copies(key: str, start: int, end: int) -> Iterator[CopiedPart]:
    """Cut a range into the fewest copies, of nearly equal length."""
    count = -(-(end - start) // MAX_COPY_BYTES)
    bounds = [start + (end - start) * number // count for number in range(count + 1)]
    for first, last in pairwise(bounds):
        yield CopiedPart(Piece(key, first, last - first))
