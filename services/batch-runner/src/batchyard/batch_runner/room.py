"""How many requests a server takes: what is remembered of when it was full, of its memory, and of who else comes."""

import math

from batchyard.batch_runner.observation import Load, Observation
from batchyard.batch_runner.server_queue import queue_target

_DOUBT = 1.3  # times what made the server full: with more than that and no queue, the server is another one
_BRINK = 0.97  # of what made the server full: with less nobody waits who comes beside us
_PEAK_LASTS = 10.0  # seconds for which room is left for as many of others as were there at once
_PEAK_FADES = 30.0  # further seconds in which a peak of others' load loses two thirds
_WAY_FOLLOWS = 10.0  # seconds in which two thirds of a change are believed
_UNSETTLED = 1.0  # seconds after a rise of the limit in which much is on the way to the server
_CATCHES_UP = 0.3  # of the difference, for each look at a queue
_CREEPS = 0.01  # of what makes the server full, for each look that shows no queue
_KV_LEAST = 0.2  # of the KV cache: with less taken, a request's part in it says little
_KV_TARGET, _KV_LOWEST, _KV_FULL = 0.91, 0.8, 0.97
_KV_LOWERED, _KV_RECOVERS = 0.02, 0.002  # for each cut, and for each second
_LOSSES, _LOSSES_FADE = 0.02, 10.0  # preemptions for each answer that cost less than room for them; seconds


class Memory:
    """How many requests fit into the KV cache, by what those take that run."""

    def __init__(self) -> None:
        self.target = _KV_TARGET
        self._usage = 0.0
        self._running = 0.0
        self._lost = 0.0
        self._done = 0.0

    def note(self, load: Load, elapsed: float, latency: float) -> None:
        """One more look: the fill goes up and down by chance, so it is what it is on average that is held."""
        self.target = min(_KV_TARGET, self.target + _KV_RECOVERS * elapsed)
        if load.kv_usage is None:
            return
        follows = 1.0 - math.exp(-elapsed / min(max(latency, 2.0), 10.0)) if self._running else 1.0
        self._usage += follows * (load.kv_usage - self._usage)
        self._running += follows * (load.running - self._running)

    def overflows(self, preempted: float, completions: int, elapsed: float) -> bool:
        """Whether more requests have lost their place in it lately than is worth it."""
        fades = math.exp(-elapsed / _LOSSES_FADE)
        self._lost = self._lost * fades + preempted
        self._done = self._done * fades + completions
        return preempted > 0 and self._lost > _LOSSES * self._done

    def overflowed(self) -> None:
        """A cut was made for that: leave more of it free for a while."""
        self.target = max(_KV_LOWEST, self.target - _KV_LOWERED)

    def keeps(self, load: Load) -> float:
        """The share of what runs that has room to grow: 1, unless it is all but full."""
        usage = load.kv_usage or 0.0
        return self.target / usage if usage > _KV_FULL else 1.0

    @property
    def fits(self) -> float:
        """Requests for which it has room; infinite if too little is taken to tell."""
        if self._usage < _KV_LEAST or self._running < 1:
            return math.inf
        return self.target * self._running / self._usage


class Room:
    """The room of one server.

    Attributes:
        full: Requests in the server when it last had a queue; None while it had none.
        brink_since: Since when as many are there as it takes.
        peak: Of others' load, lately.
        way: Requests of our own that are in flight and not in the server: on the way to it, or back.
    """

    def __init__(self) -> None:
        self.full: float | None = None
        self.brink_since: float | None = None
        self.peak = 0.0
        self.way = 0.0
        self.memory = Memory()
        self.is_memory_bound = False
        self._full_seen = 0.0
        self._peak_at = 0.0
        self._refuses = False
        self._ways = 0

    def note(self, seen: Observation, elapsed: float, latency: float, raised_at: float) -> None:
        """One more look, `elapsed` seconds after the one before; the limit was raised at `raised_at`."""
        load = seen.load
        if load is None:
            return
        if seen.others >= self.peak:
            self.peak, self._peak_at = seen.others, seen.now
        elif seen.now - self._peak_at > _PEAK_LASTS:
            self.peak = max(seen.others, self.peak * math.exp(-elapsed / _PEAK_FADES))
        self.memory.note(load, elapsed, latency)
        if seen.others > 1:
            self.way, self._ways = 0.0, 0  # nobody can tell
        elif seen.now - raised_at >= _UNSETTLED and load.waiting <= queue_target(load):
            on_the_way = max(0.0, seen.in_flight + seen.siblings - load.running - load.waiting)
            self._ways += 1
            follows = max(1.0 / self._ways, 1.0 - math.exp(-elapsed / _WAY_FOLLOWS))
            self.way += follows * (on_the_way - self.way)
        if self.full is not None and self.full > _DOUBT * self._full_seen:
            self.full = None

    def is_full(self, requests: float, *, refuses: bool = False) -> None:
        """So many requests are too many for the server, or just enough; or it has refused more."""
        self.full = self._full_seen = max(1.0, requests)
        self.brink_since = None
        self._refuses = refuses

    def queues(self, seen: Observation, load: Load) -> None:
        """Something waits, and it was known how many make the server full."""
        assert self.full is not None
        if self.is_alone(seen):
            self.full = self._full_seen = self.full + _CATCHES_UP * (load.running - self.full)
        else:
            self.full = min(self.full, load.running)
        self.brink_since = None

    def creeps(self, seen: Observation, load: Load) -> None:
        """As many are there as it takes, by what is known: a little more, until something waits."""
        assert self.full is not None
        if load.waiting < 1 and self.is_alone(seen) and not self._refuses:
            self.full *= 1 + _CREEPS

    def forget(self) -> None:
        self.full = None
        self.is_memory_bound = False

    def is_alone(self, seen: Observation) -> bool:
        """Whether nobody else is there, nor was lately."""
        return seen.others <= 1 and self.peak <= 1

    def reserve(self, seen: Observation) -> float:
        """What others have had lately."""
        return max(0.0, self.peak - seen.others)

    def free(self, seen: Observation) -> float | None:
        """How many of our own there is room for; None if nothing is known."""
        most = math.inf
        if self.full is not None:
            most = self.full if self.is_alone(seen) and not self._refuses else _BRINK * self.full
        if self.is_memory_bound:
            most = min(most, self.memory.fits)
        return self._ours(seen, most) if most < math.inf else None

    def fits(self, seen: Observation) -> float:
        """How many of our own fit into the KV cache."""
        return self._ours(seen, self.memory.fits)

    def _ours(self, seen: Observation, most: float) -> float:
        # What is left free for people is not to be filled by what was on its way, should it all be there at once.
        way = min(self.way, most) if self.is_alone(seen) else 0.0
        return most - seen.others - seen.siblings - self.reserve(seen) + way
