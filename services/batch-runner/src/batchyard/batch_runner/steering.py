"""How one deployment is driven: its limiter, what it was told last, and what people want to know of it."""

from collections import deque
from dataclasses import dataclass, replace

from batchyard.batch_runner.limiter import Limiter
from batchyard.batch_runner.observation import Load, Observation
from batchyard.batch_runner.verdict import CUTS, Decision, Mode, Reason

_REMEMBERED_CUTS = 10
_LOOKS_WITHOUT_METRICS = 3


@dataclass(slots=True)
class Traffic:
    """What went to one deployment and came back, since this process knows it.

    Attributes:
        requests: Attempts that were begun.
        answered: Those that brought a line its answer.
        refused: Those that brought it a refusal for good, such as a 400.
        failed: Those that brought it nothing.
        throttled: Of the failed, 429 and 503.
        timed_out: Of the failed, those that took too long.
        taken_back: Attempts that were ended by us so that others have the place.
        tokens: Generated, in the answers.
        seconds: What the answers took, summed up.
        seconds_lost: What the attempts had taken that were taken back.
    """

    requests: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    throttled: int = 0
    timed_out: int = 0
    taken_back: int = 0
    tokens: int = 0
    seconds: float = 0.0
    seconds_lost: float = 0.0

    @property
    def tokens_lost(self) -> int:
        """The tokens that were generated for nothing, as far as can be told from how fast answers grow."""
        return round(self.seconds_lost * self.tokens / self.seconds) if self.seconds else 0


@dataclass(frozen=True, slots=True)
class Cut:
    """The limit was lowered. `at` is in seconds since the epoch."""

    at: float
    reason: Reason
    before: int
    after: int


class Steering:
    """The limit of one deployment, and how it has come to it."""

    def __init__(self, start: int, ceiling: int) -> None:
        self._limiter = Limiter(start, ceiling)
        self._told = Traffic()
        self._unseen = 0
        self.mode: Mode | None = None
        self.load: Load | None = None
        self.untold: tuple[str, ...] = ()  # of what it may say of its load, while it says any
        self.seen_at: float | None = None
        self.others = 0.0
        self.reason = Reason.STARTING
        self.cuts: deque[Cut] = deque(maxlen=_REMEMBERED_CUTS)

    @property
    def limit(self) -> int:
        return self._limiter.limit

    @property
    def is_ramping(self) -> bool:
        """Whether it pays to look often, since the limit is doubled at every look that shows room."""
        return self._limiter.is_ramping

    def bound(self, ceiling: int) -> None:
        """Never pass `ceiling` from now on."""
        self._limiter.bound(ceiling)

    def has_news(self, traffic: Traffic) -> bool:
        """Whether something has come back since the last look."""
        return traffic != self._told

    def look(
        self, load: Load | None, traffic: Traffic, in_flight: int, most: int, siblings: int, now: float, wall: float
    ) -> Decision | None:
        """What follows from a look at the deployment; None if it shows too little to follow anything from.

        Args:
            load: None if the server did not say.
            in_flight: Our requests there, at the moment of the load.
            most: As many as there have been at once since the look before.
            siblings: Those of this process through other pools.
            now: Monotonic seconds.
            wall: Seconds since the epoch.
        """
        if not self._settle_mode(load):
            return None
        told, self._told = self._told, replace(traffic)
        seen = Observation(
            now=now,
            in_flight=in_flight,
            completions=traffic.answered - told.answered,
            tokens=traffic.tokens - told.tokens,
            seconds=traffic.seconds - told.seconds,
            load=load,
            most=most,
            siblings=siblings,
            throttled=traffic.throttled - told.throttled,
            timeouts=traffic.timed_out - told.timed_out,
        )
        before = self.limit
        decision = self._limiter.observe(seen)
        self.load, self.others, self.reason = load, seen.others, decision.reason
        self.seen_at = wall if load is not None else None
        if decision.reason in CUTS and decision.limit < before:
            self.cuts.append(Cut(wall, decision.reason, before, decision.limit))
        return decision

    def _settle_mode(self, load: Load | None) -> bool:
        """Whether to go by what was seen: one look that failed is no reason to go by the latency from now on."""
        if load is not None:
            self._unseen = 0
            self.mode, self.untold = Mode.METRICS, load.untold
            return True
        self._unseen += 1
        if self.mode is Mode.METRICS and self._unseen < _LOOKS_WITHOUT_METRICS:
            return False
        self.mode = Mode.LATENCY
        return True
