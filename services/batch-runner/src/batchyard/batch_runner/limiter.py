"""How many requests one deployment may have in flight: found by trying, and given up at the first sign of a queue.

vLLM refuses nothing, it queues. So errors say little, and the limit follows what the server tells about itself
(`/metrics`) and what it gets done. Nothing here does I/O or reads a clock: observations go in, limits come out.

Without the server's own word the limit follows the latency alone, as in Netflix's concurrency-limits (gradient2,
https://github.com/Netflix/concurrency-limits).
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from batchyard.batch_runner.observation import Load, Observation, Window

_DOUBLE, _UP, _DOWN = 2.0, 1.25, 0.85
_LEAST_WINDOW, _LONGEST_WINDOW = 0.5, 20.0  # seconds
_LEAST_COUNTED = 1.5  # seconds; what is counted has our own pauses in it, such as for checkpoints
_LEAST_COMPLETIONS = 20
_MODEST = 4.0  # times the start: so many requests need not prove what they bring
_HOLD = 10.0  # seconds between two trials that brought nothing
_BACK_OFF = 0.08  # of the limit, besides what has to wait
_DOUBT = 1.3  # times what made the server full: with more than that and no queue, the server is another one
_GENEROUS = 0.3  # of one request: servers with few slots would lose one of them by rounding down
_PROBE_AFTER = 10.0  # seconds at the brink until it is tried whether there is more
_BRINK = 0.97  # of what made the server full
_PEAK_FADES = 30.0  # seconds in which a peak of others' load loses two thirds
_SUDDEN = 0.1  # of what runs: a rise of others' load within one look that is people and no other runner
_GENTLE = 0.04  # of the room: what a runner takes at a time beside others, so as to be no burst to them
_KV_FULL, _KV_ENOUGH = 0.9, 0.86
_SLOWER = 2.0  # times slower than at best: without metrics, this is a queue
_BEST_FADES = 0.99  # for each window: a server may become slower for good
_LEAVING = 1.2  # seconds in which a busy server gets rid of what was taken back
_IDLE_FORGETS = 10.0  # seconds without a request after which the limit begins anew


class Mode(StrEnum):
    """What the limit follows."""

    METRICS = "metrics"
    LATENCY = "latency"


class Reason(StrEnum):
    """Why the limit is what it is."""

    STARTING = "starting"
    GROWING = "growing"
    TRYING_LESS = "trying_less"
    STEADY = "steady"
    FLAT = "flat"  # more in flight brings nothing
    IDLE = "idle"  # the limit is not what bounds the throughput
    NEARLY_FULL = "nearly_full"  # one step below where the server last had a queue
    LEVELLING = "levelling"  # beside others, where the server is nearly full
    YIELDING = "yielding"  # others take the room
    QUEUE = "queue"
    BURST = "burst"
    KV_CACHE = "kv_cache"
    PREEMPTIONS = "preemptions"
    SLOWDOWN = "slowdown"  # without metrics: answers take much longer than they did
    THROTTLED = "throttled"
    TIMEOUTS = "timeouts"


CUTS = frozenset(
    {
        Reason.QUEUE,
        Reason.BURST,
        Reason.KV_CACHE,
        Reason.PREEMPTIONS,
        Reason.SLOWDOWN,
        Reason.THROTTLED,
        Reason.TIMEOUTS,
    }
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What an observation led to.

    Attributes:
        limit: Requests that may be in flight from now on.
        abort: How many of the youngest are to be taken back, since somebody else waits for their places.
    """

    limit: int
    reason: Reason
    abort: int = 0


@dataclass(frozen=True, slots=True)
class _Trial:
    """Another limit is being tried; `seen` is what was seen at the one before."""

    before: float
    seen: Window


class Limiter:
    """The limit of one deployment, between `least` and `ceiling`. Tell it what is seen about once a second."""

    def __init__(self, start: int, ceiling: int, least: int = 1) -> None:
        self._start = start
        self._least = least
        self._ceiling = ceiling
        self._limit = float(min(max(start, least), ceiling))
        self._last: Observation | None = None
        self._latency = 0.0
        self._patience = 0.0  # no second cut for the same reason before this moment
        self._window: Window | None = None
        self._trial: _Trial | None = None
        self._hold_until = 0.0
        self._is_starting = True
        self._down_next = False
        self._best_speed = 0.0
        self._full: float | None = None  # requests in the server when it last had a queue
        self._full_seen = 0.0
        self._brink_since: float | None = None
        self._peak = 0.0  # of others' load
        self._active_at: float | None = None
        self._leaving = 0  # requests of our own that were taken back from the queue
        self._leaving_until = 0.0

    @property
    def limit(self) -> int:
        return max(self._least, math.floor(self._limit + _GENEROUS))

    def bound(self, ceiling: int) -> None:
        """Never pass `ceiling` from now on."""
        self._ceiling = ceiling
        self._limit = min(self._limit, float(ceiling))

    def observe(self, seen: Observation) -> Decision:
        """The limit from now on."""
        seen = self._without_leavers(seen)
        before, self._last = self._last, seen
        self._note(seen, before)
        decision = self._cut(seen, before) or self._stay_below(seen) or self._grow(seen, before)
        self._limit = min(max(self._limit, float(self._least)), float(self._ceiling))
        if decision.abort and decision.reason is Reason.QUEUE:
            self._leaving, self._leaving_until = decision.abort, seen.now + _LEAVING
        return Decision(self.limit, decision.reason, decision.abort)

    def _without_leavers(self, seen: Observation) -> Observation:
        """A busy server shows for a moment more what was taken back from its queue: that is nobody else's load."""
        if seen.load is None or seen.now >= self._leaving_until:
            return seen
        waiting = min(float(self._leaving), seen.load.waiting)
        load = replace(seen.load, waiting=seen.load.waiting - waiting)
        return replace(seen, load=load, siblings=seen.siblings + self._leaving - math.ceil(waiting))

    # --- what is remembered

    def _note(self, seen: Observation, before: Observation | None) -> None:
        if seen.completions:
            self._latency = seen.seconds / seen.completions
        if seen.in_flight:
            if self._active_at is not None and seen.now - self._active_at > _IDLE_FORGETS:
                self._begin_anew()
            self._active_at = seen.now
        if seen.load is not None:
            elapsed = 0.0 if before is None else seen.now - before.now
            self._peak = max(seen.others, self._peak * math.exp(-elapsed / _PEAK_FADES))
        if self._full is not None and self._full > _DOUBT * self._full_seen:
            self._full = None

    def _begin_anew(self) -> None:
        self._limit = min(self._limit, float(self._start))
        self._full = None
        self._is_starting = True
        self._restart_window()

    def _restart_window(self) -> None:
        self._window = None
        self._trial = None

    # --- less

    def _cut(self, seen: Observation, before: Observation | None) -> Decision | None:
        if seen.timeouts or seen.throttled:
            return self._cut_for_refusals(seen)
        if seen.load is None:
            return self._cut_for_slowness(seen)
        return (
            self._cut_for_burst(seen, seen.load, before)
            or self._cut_for_queue(seen, seen.load, before)
            or self._cut_for_memory(seen, seen.load, before)
        )

    def _cut_for_refusals(self, seen: Observation) -> Decision | None:
        reason = Reason.TIMEOUTS if seen.timeouts else Reason.THROTTLED
        decision = self._cut_to(seen, 0.5 * self._limit, reason)
        if decision is not None:
            self._is_full(float(seen.in_flight + seen.siblings) + seen.others)
            self._peak = seen.others  # what it took before it refused says nothing of what others will need
        return decision

    def _cut_to(self, seen: Observation, limit: float, reason: Reason) -> Decision | None:
        """Cut once; what is in flight has to come back before the server can show that it was enough."""
        if seen.now < self._patience:
            return None
        self._limit = min(self._limit, max(limit, self._least))
        self._patience = seen.now + min(max(self._latency, 1.0), 10.0)
        self._settle_after_cut(seen)
        return Decision(self.limit, reason)

    def _settle_after_cut(self, seen: Observation) -> None:
        self._is_starting = False
        self._restart_window()
        self._hold_until = max(self._hold_until, seen.now + max(2.0, min(self._latency, 5.0)))

    def _cut_for_burst(self, seen: Observation, load: Load, before: Observation | None) -> Decision | None:
        """Others came and wait: give them the places at once, and those back that have cost the least so far."""
        if before is None or before.load is None or load.waiting < 1:
            return None
        rise = seen.others - before.others
        if rise < max(2.0, _SUDDEN * load.running) or load.waiting <= _queue_target(load):
            return None
        needed = min(load.waiting, rise)
        self._is_full(load.running)
        self._limit = max(float(self._least), min(self._limit, seen.in_flight - needed))
        self._settle_after_cut(seen)
        return Decision(self.limit, Reason.BURST, abort=max(0, min(math.ceil(needed), seen.in_flight - self.limit)))

    def _cut_for_queue(self, seen: Observation, load: Load, before: Observation | None) -> Decision | None:
        target = _queue_target(load)
        lasts = before is not None and before.load is not None and before.load.waiting > target
        if load.waiting <= target or not (lasts or load.waiting > 4 * target):
            return None
        if seen.in_flight > self.limit and lasts:
            return Decision(self.limit, Reason.QUEUE)  # what is too much is on its way out
        self._is_full(load.running)
        # Who has more gives more: so several runners come to equal shares.
        share = min(1.0, seen.in_flight / max(load.running + load.waiting, 1.0))
        bearable = seen.in_flight - share * load.waiting
        self._limit = max(float(self._least), min(self._limit, (1.0 - _BACK_OFF * share) * bearable))
        self._settle_after_cut(seen)
        # Of our own, the youngest are those that wait: nothing is lost by taking them back.
        abort = math.ceil(share * (load.waiting - target)) if load.waiting > 4 * target else 0
        return Decision(self.limit, Reason.QUEUE, abort=max(0, min(abort, seen.in_flight - self.limit)))

    def _cut_for_memory(self, seen: Observation, load: Load, before: Observation | None) -> Decision | None:
        preempted = 0.0
        if before is not None and before.load is not None:
            preempted = (load.preemptions or 0.0) - (before.load.preemptions or 0.0)
        if preempted <= 0 and (load.kv_usage or 0.0) <= _KV_FULL:
            return None
        reason, factor = (Reason.PREEMPTIONS, 0.8) if preempted > 0 else (Reason.KV_CACHE, 0.95)
        decision = self._cut_to(seen, factor * min(self._limit, seen.in_flight), reason)
        if decision is not None:
            self._is_full(load.running)
        return decision

    def _cut_for_slowness(self, seen: Observation) -> Decision | None:
        window = self._window
        if window is None or not self._best_speed or window.completions < _LEAST_COMPLETIONS:
            return None
        gradient = _SLOWER * window.speed / self._best_speed
        if gradient >= 1:
            return None
        return self._cut_to(seen, max(0.5, gradient) * self._limit, Reason.SLOWDOWN)

    def _is_full(self, requests: float) -> None:
        """So many requests are too many for the server, or just enough."""
        self._full = self._full_seen = max(1.0, requests)
        self._brink_since = None

    # --- room for others

    def _stay_below(self, seen: Observation) -> Decision | None:
        """Where the server is known to be full, stay below, and leave free what others have taken lately."""
        load = seen.load
        queues = load is not None and load.waiting > _queue_target(load) / 2
        if load is not None and queues and self._full is not None:
            self._full = min(self._full, load.running)
            self._brink_since = None
        elif load is not None and queues and seen.others > 1:
            # Whoever is here as well may keep the queue too short for a cut, and would be pushed out meanwhile.
            self._is_full(load.running)
            self._restart_window()
        if self._full is None:
            return None
        reserve = max(0.0, self._peak - seen.others)
        room = _BRINK * self._full - seen.others - seen.siblings - reserve
        if math.floor(room + _GENEROUS) > self.limit:
            return None if seen.now < self._hold_until else self._fill(seen, room)
        if self._brink_since is None:
            self._brink_since = seen.now
        if reserve >= 1 and not queues:
            return Decision(self.limit, Reason.YIELDING)
        if queues or seen.others > 1:
            return self._level(seen, queues)
        if seen.now - self._brink_since > _PROBE_AFTER:
            self._full *= 1 + _GENTLE
        return Decision(self.limit, Reason.NEARLY_FULL)

    def _level(self, seen: Observation, queues: bool) -> Decision:
        """At the brink: a little more while nothing waits, a little less when something does. Who has more gains less
        and gives more, so runners that know nothing of each other come to equal shares: by the square, since they look
        at different moments, and one may see more queues than another."""
        odds = (seen.others / self._limit) ** 2
        share = 1 / (1 + odds)
        step = _GENTLE * (self._limit + seen.others)
        if queues:
            self._limit -= step * share
        elif seen.is_busy(self.limit):
            self._limit += step * (1 - share)
        return Decision(self.limit, Reason.LEVELLING)

    def _fill(self, seen: Observation, room: float) -> Decision:
        """Take what is free; who has less than others takes more, so that several runners come to equal shares."""
        if not seen.is_busy(self.limit):
            return Decision(self.limit, Reason.IDLE)
        alone = self._limit / (self._limit + seen.others)
        pace = 2 * _GENTLE * (1.0 - alone) if seen.others > 1 else _UP - 1
        step = max(1.0, pace * (room + seen.others))
        self._limit = min(self._limit + step, room)
        return Decision(self.limit, Reason.GROWING)

    # --- more, as long as it brings more

    def _grow(self, seen: Observation, before: Observation | None) -> Decision:
        if seen.load is not None and _is_nearly_full(seen.load):
            self._restart_window()
            return Decision(self.limit, Reason.NEARLY_FULL)
        if self._limit < self._harmless(seen) and seen.is_busy(self.limit) and seen.now >= self._hold_until:
            self._limit = min(self._limit * _DOUBLE, self._harmless(seen))
            self._restart_window()
            return Decision(self.limit, Reason.GROWING)
        if seen.now < self._hold_until and self._trial is None:
            return Decision(self.limit, Reason.FLAT if self._full is None else Reason.STEADY)
        if self._window is None:
            self._window = Window(begins=seen.now + (min(self._latency, _LONGEST_WINDOW) if self._trial else 0.0))
            return Decision(self.limit, Reason.STARTING if self._is_starting else Reason.STEADY)
        window = self._window
        if seen.now <= window.begins:
            return Decision(self.limit, Reason.STEADY)
        window.add(seen, self.limit, 0.0 if before is None else seen.now - before.now)
        if not self._is_measured(window, seen.now):
            return Decision(self.limit, Reason.STEADY)
        self._window = None
        if not window.is_busy:
            return self._without_need()
        self._best_speed = max(self._best_speed * _BEST_FADES, window.speed)
        return self._judge(window, seen)

    def _harmless(self, seen: Observation) -> float:
        """So many requests need not prove what they bring, where the server says that nothing waits and nobody else
        is there: noise would talk us out of them."""
        if seen.load is None or seen.others > 1 or self._full is not None:
            return 0.0
        return min(_MODEST * self._start, float(self._ceiling))

    def _is_measured(self, window: Window, now: float) -> bool:
        length = now - window.begins
        if window.completions and length >= _LONGEST_WINDOW:
            return True
        enough = window.completions >= min(max(_LEAST_COMPLETIONS, self.limit), 200) or not window.is_busy
        least = _LEAST_COUNTED if window.can_be_counted else _LEAST_WINDOW
        return enough and length >= max(least, min(self._latency, _LONGEST_WINDOW))

    def _without_need(self) -> Decision:
        """There were too few requests to tell anything."""
        if self._trial is not None:
            self._limit, self._trial = self._trial.before, None
        return Decision(self.limit, Reason.IDLE)

    def _judge(self, window: Window, seen: Observation) -> Decision:
        trial, self._trial = self._trial, None
        if trial is None:
            return self._try(window, seen)
        if window.brings_more(self._limit, trial.seen, trial.before):
            self._down_next = self._limit < trial.before
            return self._try(window, seen)
        self._is_starting = False
        self._down_next = self._limit > trial.before
        self._limit = trial.before
        self._hold_until = seen.now + _HOLD
        return Decision(self.limit, Reason.FLAT)

    def _try(self, window: Window, seen: Observation) -> Decision:
        """Another limit for a while: is its throughput worth it?"""
        before = self._limit
        if seen.others > 1:
            self._limit = before + max(1.0, min((_UP - 1) * before, _GENTLE * (before + seen.others)))
        elif self._is_starting:
            self._limit = before * _DOUBLE
        elif self._down_next or before >= self._ceiling:
            self._limit = min(before * _DOWN, before - 1)
        else:
            self._limit = max(before * _UP, before + 1)
        self._limit = min(max(self._limit, float(self._least), self._harmless(seen)), float(self._ceiling))
        if self._limit == before:
            self._down_next = not self._down_next
            return Decision(self.limit, Reason.STEADY)
        self._trial = _Trial(before, window)
        return Decision(self.limit, Reason.GROWING if self._limit > before else Reason.TRYING_LESS)


def _queue_target(load: Load) -> float:
    """Requests that may wait: between two steps of the engine, those that have just come do."""
    return max(2.0, 0.05 * load.running)


def _is_nearly_full(load: Load) -> bool:
    return load.waiting > _queue_target(load) or (load.kv_usage or 0.0) > _KV_ENOUGH
