"""What waits in a server: how much may, and for how long."""

from batchyard.batch_runner.observation import Load, Observation

_MUCH = 4.0  # times what may wait: no moment's chance
_LASTS = 0.3  # seconds that a queue may be there
_TOO_LONG = 0.6  # seconds after which it has not run out by itself, and will not


def queue_target(load: Load) -> float:
    """Requests that may wait: between two steps of the engine, those that have just come do."""
    return max(2.0, 0.05 * load.running)


class ServerQueue:
    """The queue of one server, from look to look."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, seen: Observation) -> None:
        """One more look."""
        if seen.load is None or seen.load.waiting <= queue_target(seen.load):
            self._since = None
        elif self._since is None:
            self._since = seen.now

    def lasts(self, now: float) -> bool:
        """Whether too many wait at this look, and have for a while."""
        return self._since is not None and now - self._since >= _LASTS

    def lasts_too_long(self, now: float) -> bool:
        """Whether too many wait that should have gone by now."""
        return self._since is not None and now - self._since >= _TOO_LONG

    def is_too_much(self, load: Load, now: float) -> bool:
        """Whether what waits is to be taken back, and not only to run out."""
        return load.waiting > _MUCH * queue_target(load) or self.lasts_too_long(now)
