"""How many ways the lines of a batch have to begin, and so whether larger shards are worth while.

Lines are sorted within their shard, so a server computes a beginning about once for each shard that has it. Shards of
more lines need fewer computations where the lines of a shard are few for each beginning.
"""

import math
import random

from batchyard.batch_runner.lines import read_request
from batchyard.batch_runner.prefixes import arrange, can_share, prompt_key

_SAMPLE = 512
_SAMPLE_BYTES = 4096  # of each prompt
_WORTHWHILE = 0.05  # of all lines: so many more have to find their beginning computed already
_MOST_BEGINNINGS = 1e6


class Sharing:
    """Looks at a sample of a batch's lines, of whatever size: 512 of them, 4 KiB of each, and no more are kept.

    Args:
        path: The batch's endpoint. One whose requests have no prompts in common costs nothing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._can_share = can_share(path)
        self._seen = 0
        self._sample: list[bytes] = []
        self._rng = random.Random(0)  # noqa: S311  a plan made again is the same

    def see(self, line: bytes) -> None:
        """One more line, which has passed validation. Each is in the sample with the same probability (reservoir
        sampling, Vitter 1985)."""
        if not self._can_share:
            return
        self._seen += 1
        place = len(self._sample) if len(self._sample) < _SAMPLE else int(self._rng.random() * self._seen)
        if place < _SAMPLE:
            key = prompt_key(self._path, read_request(line).body)[:_SAMPLE_BYTES]
            self._sample[place : place + 1] = [key]

    def is_worth(self, lines: int, more: int) -> bool:
        """Whether shards of `more` lines instead of `lines` save a good part of the computations of beginnings."""
        beginnings = self._beginnings()
        if beginnings is None:
            return False
        return _computed(beginnings, lines) - _computed(beginnings, more) >= _WORTHWHILE

    def _beginnings(self) -> float | None:
        """How many beginnings the batch has, as the sample lets expect; None where too little is shared."""
        arranged = arrange(self._sample)
        if arranged is None:
            return None
        groups = arranged.groups
        found = len(set(groups) - {None}) + groups.count(None)
        low, high = 1.0, _MOST_BEGINNINGS
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            if len(groups) * _computed(middle, len(groups)) < found:
                low = middle
            else:
                high = middle
        return high


def _computed(beginnings: float, lines: int) -> float:
    """The share of a shard's lines that are the first with their beginning, if all are equally frequent."""
    return beginnings * -math.expm1(-lines / beginnings) / lines
