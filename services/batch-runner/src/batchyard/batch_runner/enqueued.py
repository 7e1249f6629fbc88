"""What a tenant has enqueued, and whether one more batch fits: pure functions over one record per tenant.

Every change names its batch, so it may happen twice. A batch counts from when it is admitted until it is released. One
that turns out to be larger than it was taken for, and does not fit as it is, waits: it counts in full, so that no newer
one overtakes it, and goes on when those before it have left enough room.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from batchyard.batch_runner.estimate import Size
from batchyard.common.contracts.access import Limits
from batchyard.common.contracts.enqueued import EnqueuedUsage
from batchyard.common.errors import TooManyRequests

MOST_BATCHES = 5000
"""Open batches of a tenant that has limits: they have to fit into one record."""

UNLIMITED = Limits()

_MINUTE = 60.0
_TRY_AGAIN = 30
_KEY_CHARACTERS = 16

Resource = Literal["batches", "lines", "tokens", "tokens per minute"]


class Enqueued(BaseModel):
    """One batch. `key` is the beginning of its key's ID; `at` is the Unix second of its creation.

    `ended`: it has been released, and still counts for the tokens of its first minute. `waits`: it is larger than what
    it was admitted for.
    """

    model_config = ConfigDict(frozen=True)

    lines: int
    tokens: int
    at: float
    key: str | None = None
    models: tuple[str, ...] = ()
    waits: bool = False
    ended: bool = False


class EnqueuedRecord(BaseModel):
    """The batches of one tenant, by raw ID."""

    model_config = ConfigDict(frozen=True)

    batches: dict[str, Enqueued] = {}

    def open(self) -> dict[str, Enqueued]:
        return {raw_id: batch for raw_id, batch in self.batches.items() if not batch.ended}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits that concern one batch: its team's, by model those of the team's models, and its key's."""

    team: Limits = UNLIMITED
    models: Mapping[str, Limits] = field(default_factory=dict)
    key: Limits = UNLIMITED

    @property
    def have_budget(self) -> bool:
        return any(limits.max_budget is not None or limits.soft_budget is not None for limits in (self.team, self.key))

    @property
    def is_unlimited(self) -> bool:
        """Whether nothing is said of what may be enqueued."""
        return not any(_limits_work(limits) for limits in (self.team, self.key, *self.models.values()))


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that one batch does not fit under. `used` and `wanted` are in the unit of `limit`.

    `retry_after`: seconds after which it may fit; None if it never does.
    """

    resource: Resource
    whose: str
    limit: int
    used: int
    wanted: int
    retry_after: int | None

    @property
    def is_final(self) -> bool:
        return self.wanted > self.limit

    @property
    def code(self) -> str:
        return "token_limit_exceeded" if self.resource.startswith("tokens") else "rate_limit_exceeded"

    def sentence(self) -> str:
        unit = self.resource if self.resource == "tokens per minute" else f"enqueued {self.resource}"
        used = "were enqueued in the last minute" if self.resource == "tokens per minute" else "are enqueued"
        about = "about " if self.resource.startswith("tokens") else ""
        needed = "" if self.resource == "batches" else f" and this batch needs {about}{self.wanted:,}"
        return (
            f"{_TITLES[self.resource]} limit reached for {self.whose}. Limit: {self.limit:,} {unit}; "
            f"{self.used:,} {used}{needed}."
        )

    def error(self) -> TooManyRequests:
        """The refusal of a new batch."""
        hint = (
            "It cannot fit as it is: please split the file, or ask for a higher limit."
            if self.is_final
            else "Please try again once some batches have ended."
            if self.resource != "tokens per minute"
            else f"Please try again in {self.retry_after} seconds."
        )
        return TooManyRequests(f"{self.sentence()} {hint}", code=self.code, retry_after=self.retry_after)


_TITLES: dict[Resource, str] = {
    "batches": "Enqueued batch",
    "lines": "Enqueued line",
    "tokens": "Enqueued token",
    "tokens per minute": "Token rate",
}


def entry_of(size: Size, key_id: str | None, model: str | None, now: float) -> Enqueued:
    """What is counted of a batch that is not planned yet; `model` is what is known of it."""
    key = None if key_id is None else key_id[:_KEY_CHARACTERS]
    models = () if model is None else (model,)
    return Enqueued(lines=size.lines, tokens=size.tokens, at=now, key=key, models=models)


def admitted(record: EnqueuedRecord, raw_id: str, batch: Enqueued, bounds: Bounds) -> EnqueuedRecord:
    """The record with one more batch, at the time `batch.at`. One that is there already stays as it is, also if it is
    over: a runner that stood still may ask for a batch that another one has made and ended.

    Raises:
        TooManyRequests: It does not fit.
    """
    if raw_id in record.batches:
        return record
    batches = _recent(record.batches, batch.at)
    shortage = _shortage(batches, batch, bounds, batch.at, at_creation=True)
    if shortage is not None:
        raise shortage.error()
    return EnqueuedRecord(batches={**batches, raw_id: batch})


def measured(
    record: EnqueuedRecord, raw_id: str, batch: Enqueued, bounds: Bounds
) -> tuple[EnqueuedRecord, Shortage | None]:
    """The record now that the size of a batch is known; and what it lacks, if it does not fit as it is.

    It then waits for those that run, and for those that wait and are older. One that is over counts no more, whoever
    has only read its lines by now.
    """
    known = record.batches.get(raw_id)
    if known is not None and known.ended:
        return record, None
    before = {
        other: entry
        for other, entry in record.batches.items()
        if other != raw_id and (not entry.waits or other < raw_id)
    }
    shortage = _shortage(before, batch, bounds, batch.at, at_creation=False)
    at = batch.at if known is None else known.at
    kept = batch.model_copy(update={"at": at, "waits": shortage is not None})
    return EnqueuedRecord(batches={**record.batches, raw_id: kept}), shortage


def released(record: EnqueuedRecord, raw_id: str, now: float) -> EnqueuedRecord:
    """The record without a batch that has ended, or was not made after all."""
    known = record.batches.get(raw_id)
    if known is None:
        return record
    ended = known.model_copy(update={"ended": True, "waits": False})
    return EnqueuedRecord(batches=_recent({**record.batches, raw_id: ended}, now))


def forgotten(record: EnqueuedRecord, raw_id: str) -> EnqueuedRecord:
    """The record as if a batch had never been admitted: it was refused elsewhere."""
    return EnqueuedRecord(batches={other: entry for other, entry in record.batches.items() if other != raw_id})


def used(record: EnqueuedRecord, now: float, *, key_id: str | None = None, model: str | None = None) -> EnqueuedUsage:
    """What is enqueued, of one key or one model if given."""
    counted = [
        entry
        for entry in record.batches.values()
        if (key_id is None or entry.key == key_id[:_KEY_CHARACTERS]) and (model is None or model in entry.models)
    ]
    waiting = [entry for entry in counted if not entry.ended]
    return EnqueuedUsage(
        batches=len(waiting),
        lines=sum(entry.lines for entry in waiting),
        tokens=sum(entry.tokens for entry in waiting),
        tokens_of_last_minute=sum(entry.tokens for entry in counted if entry.at > now - _MINUTE),
    )


def audited(
    record: EnqueuedRecord, running: Mapping[str, Enqueued], over: Collection[str], now: float
) -> EnqueuedRecord:
    """The record after a look at the batches themselves: those that are missing added, those that are over released."""
    batches = {**running, **record.batches}
    for raw_id in over:
        batches.pop(raw_id, None)
    return EnqueuedRecord(batches=_recent(batches, now))


def _recent(batches: Mapping[str, Enqueued], now: float) -> dict[str, Enqueued]:
    return {raw_id: entry for raw_id, entry in batches.items() if not entry.ended or entry.at > now - _MINUTE}


def _limits_work(limits: Limits) -> bool:
    named = (limits.max_batches, limits.max_enqueued_lines, limits.max_enqueued_tokens, limits.tpm_limit)
    return any(limit is not None for limit in named)


def _shortage(
    others: Mapping[str, Enqueued], batch: Enqueued, bounds: Bounds, now: float, *, at_creation: bool
) -> Shortage | None:
    """The first limit that does not hold `batch` beside `others`."""
    if at_creation and (count := sum(not entry.ended for entry in others.values())) >= MOST_BATCHES:
        return Shortage("batches", "the organization", MOST_BATCHES, count, 1, _TRY_AGAIN)
    for whose, limits, beside in _scopes(others, batch, bounds):
        shortage = _shortage_within(whose, limits, beside, batch, now, at_creation=at_creation)
        if shortage is not None:
            return shortage
    return None


def _scopes(
    others: Mapping[str, Enqueued], batch: Enqueued, bounds: Bounds
) -> Iterator[tuple[str, Limits, list[Enqueued]]]:
    yield "the team", bounds.team, list(others.values())
    for model in batch.models:
        if model in bounds.models:
            beside = [entry for entry in others.values() if model in entry.models]
            yield f"the model '{model}' in the team", bounds.models[model], beside
    if batch.key is not None:
        yield "the API key", bounds.key, [entry for entry in others.values() if entry.key == batch.key]


def _shortage_within(
    whose: str, limits: Limits, beside: list[Enqueued], batch: Enqueued, now: float, *, at_creation: bool
) -> Shortage | None:
    waiting = [entry for entry in beside if not entry.ended]
    rows: list[tuple[Resource, int | None, int, int]] = [
        ("lines", limits.max_enqueued_lines, sum(entry.lines for entry in waiting), batch.lines),
        ("tokens", limits.max_enqueued_tokens, sum(entry.tokens for entry in waiting), batch.tokens),
    ]
    if at_creation:
        rows.insert(0, ("batches", limits.max_batches, len(waiting), 1))
    for resource, limit, used, wanted in rows:
        if limit is not None and used + wanted > limit:
            return Shortage(resource, whose, limit, used, wanted, None if wanted > limit else _TRY_AGAIN)
    if at_creation and limits.tpm_limit is not None:
        return _rate_shortage(whose, limits.tpm_limit, beside, batch, now)
    return None


def _rate_shortage(whose: str, limit: int, beside: list[Enqueued], batch: Enqueued, now: float) -> Shortage | None:
    recent = sorted((entry for entry in beside if entry.at > now - _MINUTE), key=lambda entry: entry.at)
    used = sum(entry.tokens for entry in recent)
    if used + batch.tokens <= limit:
        return None
    excess, retry_after = used + batch.tokens - limit, None
    if batch.tokens <= limit:
        for entry in recent:
            excess -= entry.tokens
            if excess <= 0:
                retry_after = max(1, math.ceil(entry.at + _MINUTE - now))
                break
    return Shortage("tokens per minute", whose, limit, used, batch.tokens, retry_after)
