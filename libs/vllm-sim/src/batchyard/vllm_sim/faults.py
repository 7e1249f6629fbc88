"""Faults on demand: by rate, and by a marker in the prompt.

Grammar::

    fault   = part *( "," part )
    part    = action / option
    action  = "status=" 400…599   answer with this HTTP status and vLLM's error body
            | "reset"             reset the connection (RST) instead of answering
            | "hang"              never answer; the slot stays taken until the client goes away
            | "slow"              answer after `slow_seconds` more
            | "truncate"          send half of the answer, then close the connection
            | "abort"             200 with half of the text and finish_reason "abort", as vLLM does on SIGTERM;
                                  500 on routes that generate no text
            | "bad-json"          200 with a body that is not JSON
    option  = "delay=" seconds    wait before the action; alone it is an action: answer, but so much later
            | "retry-after=" seconds     a Retry-After header, with "status" only
            | "times=" count      markers only: the first `count` requests with that exact prompt; default: all
    rate    = fault ":" 0…1       for `--fault`, the setting `faults` and POST /sim/faults
    marker  = "[[fault:" fault "]]"      anywhere in the prompt text

There is at most one action per fault. A prompt with several markers uses them up in their order
(`[[fault:status=429,times=2]][[fault:reset,times=1]]`: two 429, one reset, then the answer); rates never touch a
prompt that has a marker. A marker that cannot be read is a 400, never silence.

Whether a rate strikes depends on the seed, the prompt and how often that prompt has come, not on the order of
arrival: two runs with one seed fail the same attempts of the same prompts, whatever the concurrency.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

_marker = re.compile(r"\[\[fault:([^\[\]]*)\]\]")
_MARKER_START = "[[fault:"


class FaultSyntaxError(ValueError):
    """A fault that cannot be read."""


class FaultKind(StrEnum):
    STATUS = "status"
    RESET = "reset"
    HANG = "hang"
    SLOW = "slow"
    TRUNCATE = "truncate"
    ABORT = "abort"
    BAD_JSON = "bad-json"
    DELAY = "delay"


_BARE_ACTIONS = frozenset(FaultKind) - {FaultKind.STATUS, FaultKind.DELAY}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to go wrong. `delay` and `retry_after` are seconds; `times` None means always."""

    kind: FaultKind
    status: int | None = None
    delay: float = 0.0
    retry_after: float | None = None
    times: int | None = None

    @property
    def outcome(self) -> str:
        """How the request log names a request that met this fault."""
        return f"fault:{self.kind}"


@dataclass(frozen=True, slots=True)
class RatedFault:
    """A fault and the share of all requests, 0…1, that it strikes."""

    fault: Fault
    rate: float


def parse_fault(text: str) -> Fault:
    """Read one fault in the grammar above.

    Raises:
        FaultSyntaxError: naming what cannot be read.
    """
    kind: FaultKind | None = None
    values: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        name, equals, value = part.partition("=")
        if equals and name in {"status", "delay", "retry-after", "times"} and name not in values:
            values[name] = _number(name, value)
        elif not equals and name in _BARE_ACTIONS and kind is None:
            kind = FaultKind(name)
        else:
            raise FaultSyntaxError(f"cannot read {part!r} in the fault {text!r}")
    return _fault(text, kind, values)


def _number(name: str, value: str) -> float:
    try:
        return float(value) if name in {"delay", "retry-after"} else int(value)
    except ValueError:
        raise FaultSyntaxError(f"{name} takes a number, not {value!r}") from None


def _fault(text: str, kind: FaultKind | None, values: dict[str, float]) -> Fault:
    if "status" in values and kind is not None:
        raise FaultSyntaxError(f"more than one action in the fault {text!r}")
    if kind is None:
        kind = FaultKind.STATUS if "status" in values else FaultKind.DELAY
    if kind is FaultKind.DELAY and "delay" not in values:
        raise FaultSyntaxError(f"no action in the fault {text!r}")
    if "retry-after" in values and kind is not FaultKind.STATUS:
        raise FaultSyntaxError(f"retry-after goes with status only, not as in {text!r}")
    status = int(values["status"]) if "status" in values else None
    if status is not None and not 400 <= status <= 599:
        raise FaultSyntaxError(f"status is 400 to 599, not {status}")
    if any(not 0 <= value < float("inf") for value in values.values()):
        raise FaultSyntaxError(f"a number of the fault {text!r} is out of range")
    times = int(values["times"]) if "times" in values else None
    return Fault(kind, status, values.get("delay", 0.0), values.get("retry-after"), times)


def parse_rates(texts: Iterable[str]) -> tuple[RatedFault, ...]:
    """Read faults with their rates, such as `status=503:0.05`.

    Raises:
        FaultSyntaxError: for what cannot be read, `times` in a rate, or rates that sum up to more than 1.
    """
    rated = tuple(_parse_rate(text) for text in texts)
    if sum(entry.rate for entry in rated) > 1:
        raise FaultSyntaxError("the fault rates sum up to more than 1")
    return rated


def _parse_rate(text: str) -> RatedFault:
    what, colon, share = text.rpartition(":")
    try:
        rate = float(share)
    except ValueError:
        rate = -1.0
    if not colon or not 0 <= rate <= 1:
        raise FaultSyntaxError(f"a fault ends in its rate, such as status=503:0.05, not as in {text!r}")
    fault = parse_fault(what)
    if fault.times is not None:
        raise FaultSyntaxError(f"times goes with markers only, not as in {text!r}")
    return RatedFault(fault, rate)


def prompt_markers(prompt: str) -> list[Fault]:
    """Return the faults that a prompt's markers ask for, in their order.

    Raises:
        FaultSyntaxError: if a marker cannot be read.
    """
    if _MARKER_START not in prompt:
        return []
    found = [parse_fault(text) for text in _marker.findall(prompt)]
    if len(found) != prompt.count(_MARKER_START):
        raise FaultSyntaxError("a fault marker has no end")
    return found


def without_markers(text: str) -> str:
    """Return the text without its fault markers."""
    return _marker.sub("", text) if _MARKER_START in text else text


class FaultPlan:
    """Decides which request meets which fault.

    Args:
        rates: see `parse_rates`.
        seed: chooses which prompts the rates strike.
        remembered: for how many prompts attempts are counted; the least recently used one is forgotten first.
    """

    def __init__(self, rates: Iterable[str], seed: int, remembered: int) -> None:
        self._remembered = remembered
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self.set_rates(rates, seed)

    def set_rates(self, rates: Iterable[str], seed: int | None = None) -> None:
        """Replace all rates, and the seed if one is given.

        Raises:
            FaultSyntaxError: see `parse_rates`; then nothing has changed.
        """
        self._rated = parse_rates(rates)
        if seed is not None:
            self._seed = seed

    def forget_attempts(self) -> None:
        """Count every prompt from its first attempt again."""
        self._attempts.clear()

    def decide(self, prompt: str, digest: str) -> Fault | None:
        """Return the fault that this request meets, if any, and count the attempt.

        Raises:
            FaultSyntaxError: if a marker in the prompt cannot be read.
        """
        markers = prompt_markers(prompt)
        if markers:
            return _next_marker(markers, self._count_attempt(digest))
        if self._rated:
            return self._struck(digest, self._count_attempt(digest))
        return None

    def _count_attempt(self, digest: str) -> int:
        attempt = self._attempts.pop(digest, 0)
        self._attempts[digest] = attempt + 1
        if len(self._attempts) > self._remembered:
            self._attempts.popitem(last=False)
        return attempt

    def _struck(self, digest: str, attempt: int) -> Fault | None:
        drawn = hashlib.blake2b(f"{self._seed}:{digest}:{attempt}".encode(), digest_size=8).digest()
        point = int.from_bytes(drawn) / 2**64
        for entry in self._rated:
            if point < entry.rate:
                return entry.fault
            point -= entry.rate
        return None


def _next_marker(markers: list[Fault], attempt: int) -> Fault | None:
    for fault in markers:
        if fault.times is None or attempt < fault.times:
            return fault
        attempt -= fault.times
    return None
