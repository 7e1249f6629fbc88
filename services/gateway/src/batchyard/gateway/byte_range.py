"""The `Range` header: one range of bytes, or the whole.

Source: RFC 9110, section 14.
"""

import re
from dataclasses import dataclass

from batchyard.gateway.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=[ \t]*(?P<first>[0-9]{0,999})-(?P<last>[0-9]{0,999})[ \t]*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from offset `start` of a file of `size` bytes."""

    start: int
    length: int
    size: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range asked for; None for the whole file: no header, several ranges, another unit, or nonsense.

    Raises:
        RangeNotSatisfiable: The range holds no byte of the file.
    """
    match = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match["first"] == match["last"] == "":
        return None
    if not match["first"]:
        start, end = max(0, size - int(match["last"])), size
    else:
        start, end = int(match["first"]), min(size, int(match["last"]) + 1) if match["last"] else size
        if match["last"] and int(match["last"]) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, end - start, size)
