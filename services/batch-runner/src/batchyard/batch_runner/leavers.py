"""Requests of our own that were taken back: a busy server shows them for a moment more, and they are nobody's load."""

from dataclasses import replace

from batchyard.batch_runner.observation import Observation

_LEAVING = 1.2  # seconds in which a busy server gets rid of what was taken back


class Leavers:
    """Those of one deployment.

    They hide no queue but their own: who waits in a server that has no more than we have in flight is not one of them,
    but has lost its place in the KV cache, say, after they had gone.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._way = 0.0
        self._until = 0.0

    def taken_back(self, requests: int, seen: Observation) -> None:
        """So many more, after a look at which others of our own may have been on their way to the server."""
        self._taken += requests
        self._way = max(0.0, -_too_many(seen))
        self._until = seen.now + _LEAVING

    def without(self, seen: Observation) -> Observation:
        """What is seen less those that are still to be seen: they wait, or they run if they were admitted meanwhile."""
        if seen.load is None or seen.now >= self._until:
            self._taken = 0
            return seen
        shown = min(float(self._taken), max(0.0, _too_many(seen) + self._way))
        waiting = min(shown, seen.load.waiting)
        load = replace(seen.load, waiting=seen.load.waiting - waiting)
        return replace(seen, load=load, leaving=shown - waiting)


def _too_many(seen: Observation) -> float:
    """How many more the server has than we have in flight."""
    assert seen.load is not None
    return seen.load.running + seen.load.waiting - seen.in_flight - seen.siblings
