"""What this gateway could not answer, so that it knows a retry when it sees one.

The SDKs retry by themselves and say so, but not what it is that they retry; others, as curl, do not even say so. The
batch may have been made all the same. A wish that was answered is not remembered: sent once more, it is a new one.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass

from batchyard.common.clock import Clock
from batchyard.common.contracts.batches import RETRY_WINDOW, Attempt

UNTOLD_WINDOW = 10.0
"""Seconds after a failed answer in which the same wish is its retry, though the client does not say so."""

_PER_WISH = 16


@dataclass(frozen=True, slots=True)
class _Failed:
    attempt: Attempt
    at: float


class FailedCreates:
    """The latest tries that failed, by wish.

    Args:
        clock: Says what is too long ago.
        wishes: How many different ones are remembered.
    """

    def __init__(self, clock: Clock, wishes: int = 1000) -> None:
        self._clock = clock
        self._wishes = wishes
        self._failed: OrderedDict[str, list[_Failed]] = OrderedDict()

    def attempt(self, wish: str, retries: int | None) -> Attempt:
        """A new try at a wish; the one that it repeats, if that is known.

        Args:
            wish: What tells two wishes apart, the caller included.
            retries: How often the client says that it has tried before; None if it says nothing.
        """
        now = self._clock.now()
        failed = self._failed.pop(wish, [])
        repeated = next((one for one in failed if self._is_repeated(one, retries, now)), None)
        kept = [one for one in failed if one is not repeated and now - one.attempt.asked_at <= RETRY_WINDOW]
        if kept:
            self._failed[wish] = kept
        if repeated is not None:
            return repeated.attempt
        return Attempt(token=secrets.token_hex(16), asked_at=now, again=bool(retries))

    def remember(self, wish: str, attempt: Attempt) -> None:
        """The try got no answer but an error: whether it did anything is unknown."""
        failed = self._failed.pop(wish, [])
        self._failed[wish] = [*failed, _Failed(attempt, self._clock.now())][-_PER_WISH:]
        while len(self._failed) > self._wishes:
            self._failed.popitem(last=False)

    def _is_repeated(self, failed: _Failed, retries: int | None, now: float) -> bool:
        if retries is None:
            return now - failed.at <= UNTOLD_WINDOW
        return retries > 0 and now - failed.attempt.asked_at <= RETRY_WINDOW
