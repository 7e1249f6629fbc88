"""Whether more in flight brings more: another limit is tried for a while, and kept if its throughput was worth it."""

from dataclasses import dataclass

from batchyard.batch_runner.observation import Observation, Window
from batchyard.batch_runner.verdict import Reason

UP = 1.25
_STARTING, _DOWN = 1.5, 0.85
GENTLE = 0.04  # of the room: what a runner takes at a time beside others, so as to be no burst to them
_LEAST_WINDOW, _LONGEST_WINDOW = 0.5, 20.0  # seconds
_LEAST_COUNTED = 1.5  # seconds; what is counted has our own pauses in it, such as for checkpoints
LEAST_COMPLETIONS = 20
_HOLD = 10.0  # seconds between two trials that brought nothing
_BEST_FADES = 0.99  # for each window: a server may become slower for good


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between `least` and `most`; what is less than `harmless` need not prove what it brings."""

    least: float
    most: float
    harmless: float = 0.0


@dataclass(frozen=True, slots=True)
class _Trial:
    """Another limit is being tried; `seen` is what was seen at the one before."""

    before: float
    seen: Window


class Search:
    """The search for the best limit of one deployment, as long as nothing says that it is too much.

    Attributes:
        window: What was seen at the present limit so far.
        best_speed: The most that was done for one request in one second.
        hold_until: No trial before this moment.
        is_starting: Whether every trial was worth it so far.
    """

    def __init__(self) -> None:
        self.window: Window | None = None
        self.best_speed = 0.0
        self.hold_until = 0.0
        self.is_starting = True
        self._trial: _Trial | None = None
        self._down_next = False

    def restart(self) -> None:
        """Forget what was seen so far: it was under other circumstances."""
        self.window = None
        self._trial = None

    def begin_anew(self) -> None:
        """Everything is to be found again."""
        self.is_starting = True
        self.restart()

    def settle(self, until: float) -> None:
        """A cut was made; it has to show its effect."""
        self.is_starting = False
        self.restart()
        self.hold_until = max(self.hold_until, until)

    def look(
        self, seen: Observation, elapsed: float, latency: float, limit: float, bounds: Bounds
    ) -> tuple[float, Reason]:
        """The limit from now on, `elapsed` seconds after the look before; answers take about `latency` seconds."""
        if seen.now < self.hold_until and self._trial is None:
            return limit, Reason.FLAT
        if self.window is None:
            self.window = Window(begins=seen.now + (min(latency, _LONGEST_WINDOW) if self._trial else 0.0))
            return limit, Reason.STARTING if self.is_starting else Reason.STEADY
        window = self.window
        if seen.now <= window.begins:
            return limit, Reason.STEADY
        window.add(seen, int(limit), elapsed)
        if not _is_measured(window, seen.now, latency, limit):
            return limit, Reason.STEADY
        self.window = None
        if not window.is_busy:
            return self._without_need(limit)
        self.best_speed = max(self.best_speed * _BEST_FADES, window.speed)
        return self._judge(window, seen, limit, bounds)

    def _without_need(self, limit: float) -> tuple[float, Reason]:
        """There were too few requests to tell anything."""
        trial, self._trial = self._trial, None
        return limit if trial is None else trial.before, Reason.IDLE

    def _judge(self, window: Window, seen: Observation, limit: float, bounds: Bounds) -> tuple[float, Reason]:
        trial, self._trial = self._trial, None
        if trial is None:
            return self._try(window, seen, limit, bounds)
        if window.brings_more(limit, trial.seen, trial.before):
            self._down_next = limit < trial.before
            return self._try(window, seen, limit, bounds)
        self.is_starting = False
        self._down_next = limit > trial.before
        self.hold_until = seen.now + _HOLD
        return trial.before, Reason.FLAT

    def _try(self, window: Window, seen: Observation, before: float, bounds: Bounds) -> tuple[float, Reason]:
        """Another limit for a while: is its throughput worth it?"""
        if seen.others > 1:
            limit = before + max(1.0, min((UP - 1) * before, GENTLE * (before + seen.others)))
        elif self.is_starting:
            limit = before * _STARTING
        elif self._down_next or before >= bounds.most:
            limit = min(before * _DOWN, before - 1)
        else:
            limit = max(before * UP, before + 1)
        limit = min(max(limit, bounds.least, bounds.harmless), bounds.most)
        if limit == before:
            self._down_next = not self._down_next
            return limit, Reason.STEADY
        self._trial = _Trial(before, window)
        return limit, Reason.GROWING if limit > before else Reason.TRYING_LESS


def _is_measured(window: Window, now: float, latency: float, limit: float) -> bool:
    length = now - window.begins
    if window.completions and length >= _LONGEST_WINDOW:
        return True
    enough = window.completions >= min(max(LEAST_COMPLETIONS, limit), 200) or not window.is_busy
    least = _LEAST_COUNTED if window.can_be_counted else _LEAST_WINDOW
    return enough and length >= max(least, min(latency, _LONGEST_WINDOW))
