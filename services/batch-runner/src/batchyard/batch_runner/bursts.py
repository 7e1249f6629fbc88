"""Others who come to a server all at once: people, and no other runner, which comes by small steps."""

from collections import deque

from batchyard.batch_runner.observation import Load, Observation

_SUDDEN = 0.1  # of what runs: a rise of others' load that is people, if it comes
_AT_ONCE = 0.6  # within so many seconds


class Bursts:
    """Others' load on one server lately."""

    def __init__(self) -> None:
        self._lately: deque[tuple[float, float]] = deque()  # seconds, and others' load

    def rise(self, seen: Observation, load: Load) -> float:
        """How much it has risen within a moment, or since the look before if that is longer ago; 0 if it is little."""
        self._lately.append((seen.now, seen.others))
        while len(self._lately) > 2 and self._lately[0][0] < seen.now - _AT_ONCE:
            self._lately.popleft()
        rise = seen.others - min(others for _, others in self._lately)
        return rise if rise >= max(2.0, _SUDDEN * load.running) else 0.0

    def answered(self, seen: Observation) -> None:
        """They were given their places: only what rises from here on is another burst."""
        self._lately = deque([(seen.now, seen.others)])
