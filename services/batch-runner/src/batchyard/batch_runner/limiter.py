"""How many requests one deployment may have in flight: found by trying, and given up at the first sign of a queue.

vLLM refuses nothing, it queues. So errors say little, and the limit follows what the server tells about itself
(`/metrics`) and what it gets done. Nothing here does I/O or reads a clock: observations go in, limits come out.

Without the server's own word the limit follows the latency alone, as in Netflix's concurrency-limits (gradient2,
https://github.com/Netflix/concurrency-limits).
"""

import math

from batchyard.batch_runner.bursts import Bursts
from batchyard.batch_runner.leavers import Leavers
from batchyard.batch_runner.observation import Load, Observation
from batchyard.batch_runner.room import Room
from batchyard.batch_runner.search import GENTLE, LEAST_COMPLETIONS, UP, Bounds, Search
from batchyard.batch_runner.server_queue import ServerQueue, queue_target
from batchyard.batch_runner.verdict import Decision, Reason

_DOUBLE = 2.0
_MODEST = 4.0  # times the start: so many requests need not prove what they bring
_ARRIVED = 0.8  # of what is in flight: as much in the server shows that it has seen what was sent
_RAMP = 0.4  # seconds after which twice as many are sent even if that is not to be seen
_BEGINS = 1.0  # seconds in which the first requests may still be on their way
_BACK_OFF = 0.08  # of the limit, besides what has to wait
_ARRIVES = 0.6  # seconds in which what was sent at once is taken in by the server, and waits
_GENEROUS = 0.3  # of one request: servers with few slots would lose one of them by rounding down
_PROBE_AFTER = 10.0  # seconds at the brink until it is tried whether there is more
_SLOWER = 2.0  # times slower than at best: without metrics, this is a queue
_IDLE_FORGETS = 10.0  # seconds without a request after which the limit begins anew


class Limiter:
    """The limit of one deployment, between `least` and `ceiling`. Tell it what is seen a few times a second."""

    def __init__(self, start: int, ceiling: int, least: int = 1) -> None:
        self._start = start
        self._least = least
        self._ceiling = ceiling
        self._limit = float(min(max(start, least), ceiling))
        self._last: Observation | None = None
        self._elapsed = 0.0
        self._latency = 0.0
        self._patience = 0.0  # no second cut for the same reason before this moment
        self._is_ramping = True
        self._began_at = math.inf
        self._search = Search()
        self._room = Room()
        self._raised_at = -math.inf
        self._done = 0  # answers since then
        self._queue = ServerQueue()
        self._bursts = Bursts()
        self._active_at: float | None = None
        self._leavers = Leavers()

    @property
    def limit(self) -> int:
        return max(self._least, math.floor(self._limit + _GENEROUS))

    @property
    def is_ramping(self) -> bool:
        """Whether it will be doubled as soon as the server is seen to take what it was sent: it pays to look often."""
        return self._is_ramping

    def bound(self, ceiling: int) -> None:
        """Never pass `ceiling` from now on."""
        self._ceiling = ceiling
        self._limit = min(self._limit, float(ceiling))

    def observe(self, seen: Observation) -> Decision:
        """The limit from now on."""
        seen = self._leavers.without(seen)
        before, self._last = self._last, seen
        limit = self._limit
        self._note(seen, before)
        self._is_ramping = seen.now - self._began_at < _BEGINS
        decision = self._cut(seen, before) or self._stay_below(seen) or self._grow(seen)
        self._limit = min(max(self._limit, float(self._least)), float(self._ceiling))
        if self._limit > limit:
            self._raised_at, self._done = seen.now, 0
        if decision.abort and decision.reason is Reason.QUEUE:
            self._leavers.taken_back(decision.abort, seen)
        return Decision(self.limit, decision.reason, decision.abort)

    # --- what is remembered

    def _note(self, seen: Observation, before: Observation | None) -> None:
        self._elapsed = 0.0 if before is None else seen.now - before.now
        self._done += seen.completions
        if seen.completions:
            self._latency = seen.seconds / seen.completions
        if seen.in_flight:
            if self._active_at is None:
                self._began_at = seen.now
            elif seen.now - self._active_at > _IDLE_FORGETS:
                self._begin_anew(seen.now)
            self._active_at = seen.now
        self._queue.note(seen)
        self._room.note(seen, self._elapsed, self._latency, self._raised_at)

    def _begin_anew(self, now: float) -> None:
        self._began_at = now
        self._limit = min(self._limit, float(self._start))
        self._room.forget()
        self._search.begin_anew()

    # --- less

    def _cut(self, seen: Observation, before: Observation | None) -> Decision | None:
        if seen.timeouts or seen.throttled:
            return self._cut_for_refusals(seen)
        if seen.load is None:
            return self._cut_for_slowness(seen)
        return (
            self._cut_for_burst(seen, seen.load)
            or self._cut_for_queue(seen, seen.load)
            or self._cut_for_memory(seen, seen.load, before)
        )

    def _cut_for_refusals(self, seen: Observation) -> Decision | None:
        reason = Reason.TIMEOUTS if seen.timeouts else Reason.THROTTLED
        decision = self._cut_to(seen, 0.5 * self._limit, reason)
        if decision is not None:
            self._room.is_full(float(seen.in_flight + seen.siblings) + seen.others, refuses=True)
            self._room.peak = seen.others  # what it took before it refused says nothing of what others will need
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
        self._search.settle(seen.now + max(2.0, min(self._latency, 5.0)))

    def _cut_for_burst(self, seen: Observation, load: Load) -> Decision | None:
        """Others came and wait: give them the places at once, and those back that have cost the least so far."""
        rise = self._bursts.rise(seen, load)
        if not rise or load.waiting <= queue_target(load):
            return None
        self._room.is_full(load.running)
        self._bursts.answered(seen)
        needed = min(load.waiting, rise) + rise  # as many are still to come: most looks come in the middle of a burst
        self._limit = max(float(self._least), min(self._limit, seen.in_flight - needed))
        self._settle_after_cut(seen)
        return Decision(self.limit, Reason.BURST, abort=max(0, min(math.ceil(needed), seen.in_flight - self.limit)))

    def _cut_for_queue(self, seen: Observation, load: Load) -> Decision | None:
        is_too_much = self._queue.is_too_much(load, seen.now)
        if not is_too_much:
            if not self._queue.lasts(seen.now) or seen.now - self._raised_at < _ARRIVES:
                return None
            if seen.in_flight > self.limit:
                return Decision(self.limit, Reason.QUEUE)  # what is too much is on its way out
        self._room.is_full(load.running)
        # Who has more gives more: so several runners come to equal shares.
        share = min(1.0, seen.in_flight / max(load.running + load.waiting, 1.0))
        runs = seen.in_flight - share * load.waiting
        if self._queue.lasts_too_long(seen.now):
            runs *= self._room.memory.keeps(load)  # those that grow in a full KV cache push out others at every look
        target, bearable = queue_target(load), (1.0 - _BACK_OFF * share) * runs
        if self._room.is_alone(seen):
            free = self._room.free(seen)
            bearable = min(runs + target / 2, math.inf if free is None else free)
        self._limit = max(float(self._least), min(self._limit, bearable))
        self._settle_after_cut(seen)
        # Of our own, the youngest are those that wait: nothing is lost by taking them back.
        abort = math.ceil(seen.in_flight - runs - share * target) if is_too_much else 0
        return Decision(self.limit, Reason.QUEUE, abort=max(0, min(abort, seen.in_flight - self.limit)))

    def _cut_for_memory(self, seen: Observation, load: Load, before: Observation | None) -> Decision | None:
        preempted = 0.0
        if before is not None and before.load is not None:
            preempted = (load.preemptions or 0.0) - (before.load.preemptions or 0.0)
        memory = self._room.memory
        overflows = memory.overflows(preempted, seen.completions, self._elapsed)
        if not overflows and memory.keeps(load) == 1:
            return None
        reason, factor = (Reason.PREEMPTIONS, 0.95) if overflows else (Reason.KV_CACHE, memory.keeps(load))
        decision = self._cut_to(seen, factor * min(self._limit, seen.in_flight), reason)
        if decision is not None:
            self._room.is_memory_bound = True
            if overflows:
                memory.overflowed()
        return decision

    def _cut_for_slowness(self, seen: Observation) -> Decision | None:
        window = self._search.window
        if window is None or not self._search.best_speed or window.completions < LEAST_COMPLETIONS:
            return None
        gradient = _SLOWER * window.speed / self._search.best_speed
        if gradient >= 1:
            return None
        return self._cut_to(seen, max(0.5, gradient) * self._limit, Reason.SLOWDOWN)

    # --- room for others

    def _stay_below(self, seen: Observation) -> Decision | None:
        """Where the server is known to be full, stay below, and leave free what others have taken lately."""
        if seen.load is None:
            return None
        queues = seen.load.waiting > queue_target(seen.load) / 2
        free = self._room_seen(seen, seen.load, queues)
        if free is None:
            return None
        if math.floor(free + _GENEROUS) > self.limit:
            return None if seen.now < self._search.hold_until else self._fill(seen, free)
        return self._stay_at(seen, seen.load, free, queues)

    def _room_seen(self, seen: Observation, load: Load, queues: bool) -> float | None:
        """How many requests of ours there is room for, as far as that is known."""
        room = self._room
        if queues and room.full is not None:
            room.queues(seen, load)
        elif queues and seen.others > 1:
            # Whoever is here as well may keep the queue too short for a cut, and would be pushed out meanwhile.
            room.is_full(load.running)
            self._search.restart()
        if self._limit >= room.fits(seen):
            room.is_memory_bound = True
        return room.free(seen)

    def _stay_at(self, seen: Observation, load: Load, free: float, queues: bool) -> Decision:
        """As many are there as the server takes."""
        room = self._room
        if room.brink_since is None:
            room.brink_since = seen.now
        if room.reserve(seen) >= 1 and not queues and seen.others <= self._limit:
            return Decision(self.limit, Reason.YIELDING)
        if seen.others > 1:
            return self._level(seen, queues)
        self._limit = min(self._limit, max(free, self._limit * (1 - GENTLE)))
        if room.full is not None:
            if seen.now - room.brink_since > _PROBE_AFTER:
                room.full *= 1 + GENTLE
            elif seen.is_busy(self.limit) and seen.now >= self._search.hold_until:
                room.creeps(seen, load)
        return Decision(self.limit, Reason.NEARLY_FULL)

    def _level(self, seen: Observation, queues: bool) -> Decision:
        """At the brink: a little more while nothing waits, a little less when something does. Who has more gains less
        and gives more, so runners that know nothing of each other come to equal shares: by the square, since they look
        at different moments, and one may see more queues than another."""
        odds = (seen.others / self._limit) ** 2
        share = 1 / (1 + odds)
        step = GENTLE * (self._limit + seen.others)
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
        pace = GENTLE if self._room.is_memory_bound or room < UP * self._limit else UP - 1
        if seen.others > 1:
            pace = 2 * GENTLE * (1.0 - alone)
        step = max(1.0, pace * (room + seen.others))
        self._limit = min(self._limit + step, room)
        return Decision(self.limit, Reason.GROWING)

    # --- more, as long as it brings more

    def _grow(self, seen: Observation) -> Decision:
        if seen.load is not None and seen.load.waiting > queue_target(seen.load):
            self._search.restart()
            return Decision(self.limit, Reason.NEARLY_FULL)
        bounds = Bounds(self._least, self._most(seen), self._harmless(seen))
        if self._limit < bounds.harmless and seen.is_busy(self.limit) and seen.now >= self._search.hold_until:
            return self._double(seen, bounds)
        self._limit, reason = self._search.look(seen, self._elapsed, self._latency, self._limit, bounds)
        return Decision(self.limit, reason)

    def _double(self, seen: Observation, bounds: Bounds) -> Decision:
        assert seen.load is not None
        self._is_ramping = True
        in_server = seen.load.running + seen.load.waiting
        has_come = in_server >= _ARRIVED * (seen.in_flight + seen.siblings) or self._done >= self.limit
        is_seen = has_come and seen.load.waiting < 1
        if not is_seen and seen.now - self._raised_at < _RAMP:
            return Decision(self.limit, Reason.GROWING)
        self._limit = min(self._limit * _DOUBLE, bounds.harmless)
        self._search.restart()
        return Decision(self.limit, Reason.GROWING)

    def _most(self, seen: Observation) -> float:
        fits = math.inf if seen.load is None else self._room.fits(seen)
        return max(float(self._least), min(float(self._ceiling), fits))

    def _harmless(self, seen: Observation) -> float:
        """So many requests need not prove what they bring, where the server says that nothing waits and nobody else
        is there: noise would talk us out of them."""
        if seen.load is None or seen.others > 1 or self._room.full is not None:
            return 0.0
        return min(_MODEST * self._start, self._most(seen))
