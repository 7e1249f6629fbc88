"""What a soak does, drawn from a seed before anything starts: the batches, and who is struck when and how."""

import hashlib
import json
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property

SYSTEM_PROMPT = (
    "You are the yard master of a large freight station. Answer every question in one short sentence, "
    "name the track, and never repeat what was asked before."
)
ENDPOINT = "/v1/chat/completions"
IN_FLIGHT = 16
"""Requests to one deployment at a time."""
SECOND_GATEWAY = "gateway-2"
SECOND_RUNNER = "batch-runner-2"
RUNNERS = frozenset({"batch-runner", SECOND_RUNNER})
TEAM_NAMES = ("default", "open", "queue", "purse", "warned")
SMALL_ONES = {"queue": 5, "purse": 5, "warned": 3}
"""Batches besides, of a tenth of the lines, with which teams come to their limits."""

SERVICES = {
    "batch-runner": 20,
    SECOND_RUNNER: 16,
    "nats": 18,
    "gateway": 9,
    SECOND_GATEWAY: 9,
    "file-store": 13,
    "billing": 15,
}
SIGNALS = {signal.SIGKILL: 60, signal.SIGSTOP: 20, signal.SIGTERM: 20}


@dataclass(frozen=True, slots=True)
class Model:
    """A model, the simulators (by number) that serve it, and what its tokens cost."""

    name: str
    servers: tuple[int, ...]
    input: Decimal
    output: Decimal
    cached: Decimal | None = None

    def cost(self, prompt: int, cached: int, output: int) -> Decimal:
        cached_price = self.input if self.cached is None else self.cached
        return (prompt - cached) * self.input + cached * cached_price + output * self.output


MODELS = (
    Model("alpha", (0, 1), Decimal("0.000001"), Decimal("0.000002")),
    Model("org/beta-7b", (0,), Decimal("0.0000005"), Decimal("0.0000015"), Decimal("0.0000001")),
    Model("gamma", (1,), Decimal("0.0000003"), Decimal("0.0000009")),
)


@dataclass(frozen=True)
class PlannedBatch:
    """One batch.

    Attributes:
        number: Which one, from 0; its metadata carries it.
        team: Whose it is.
        starts_after: It is submitted once this many strikes are over.
        cancel_after: Seconds after its creation at which it is cancelled, if ever.
        names_model: Whether the upload names the model, or the lines alone do.
    """

    number: int
    team: str
    model: Model
    lines: int
    bad: frozenset[int]
    starts_after: int
    cancel_after: float | None
    names_model: bool

    def custom_id(self, line: int) -> str:
        return f"b{self.number}-l{line}"

    def messages(self, line: int) -> list[dict[str, str]]:
        marker = " [[fault:status=400]]" if line in self.bad else ""
        question = f"In yard {self.number}, where does wagon {line} of {self.lines} go?{marker}"
        return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": question}]

    @cached_property
    def content(self) -> bytes:
        return b"\n".join(self._texts())

    def _texts(self) -> Iterator[bytes]:
        for line in range(self.lines):
            body = {"model": self.model.name, "messages": self.messages(line)}
            request = {"custom_id": self.custom_id(line), "method": "POST", "url": ENDPOINT, "body": body}
            yield json.dumps(request).encode()


@dataclass(frozen=True, slots=True)
class Strike:
    """One blow against one process, or against all of them.

    Attributes:
        targets: The programs that it hits, at once.
        pause: Seconds before it.
        stopped: For SIGSTOP: seconds until SIGCONT.
        settles: Whether all is ready again before the next one; otherwise that may hit a system that is still down.
    """

    targets: tuple[str, ...]
    number: signal.Signals
    pause: float
    stopped: float
    settles: bool

    def __str__(self) -> str:
        return f"{self.number.name} {'everything' if len(self.targets) > 1 else self.targets[0]}"


class MoodKind(StrEnum):
    """How the receiver of webhooks fails."""

    FAILS = "failing"
    HANGS = "hanging"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Mood:
    """A spell in which the receiver takes nothing over: seconds before it, and how many it lasts."""

    kind: MoodKind
    pause: float
    lasts: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it; two plans of one seed and the same sizes are equal."""

    seed: int
    batches: tuple[PlannedBatch, ...]
    strikes: tuple[Strike, ...]
    moods: tuple[Mood, ...]

    @property
    def digest(self) -> str:
        """A name for the plan: the same plan has the same one."""
        parts = [
            f"{b.number} {b.team} {b.model.name} {b.lines} {sorted(b.bad)} {b.starts_after} {b.cancel_after}"
            for b in self.batches
        ]
        parts += [str(b.names_model) for b in self.batches]
        return hashlib.sha256("\n".join((*parts, *map(repr, (*self.strikes, *self.moods)))).encode()).hexdigest()[:12]

    def rng(self, purpose: str) -> random.Random:
        """What else is drawn, for a purpose."""
        return _rng(f"{self.seed} {purpose}")

    @classmethod
    def drawn(cls, seed: int, kills: int, batches: int, lines: int) -> "Plan":
        rng = _rng(seed)
        large = [_batch(rng, number, batches, kills, lines) for number in range(batches)]
        teams = [team for team, count in SMALL_ONES.items() for _ in range(count)]
        small = [_small(rng, batches + index, team, kills, lines) for index, team in enumerate(teams)]
        strikes = tuple(_strike(rng) for _ in range(kills))
        # As many as strikes: they end with these, whichever are more.
        return cls(seed, (*large, *small), strikes, tuple(_mood(rng) for _ in range(kills)))


def _rng(seed: object) -> random.Random:
    return random.Random(f"batchyard soak {seed}")


def _batch(rng: random.Random, number: int, batches: int, kills: int, lines: int) -> PlannedBatch:
    count = rng.randint(max(1, lines * 3 // 4), max(1, lines * 5 // 4))
    bad = frozenset(rng.sample(range(count), count // 100)) if rng.random() < 0.6 else frozenset()
    # Two are there from the beginning; the last one begins while there is still something to come.
    starts_after = int(max(0, number - 1) * kills * 0.93 / max(1, batches - 1))
    cancelled = number % 3 == 2
    early = rng.random() < 0.25
    cancel_after = round(rng.uniform(0, 0.5) if early else rng.uniform(2, 15), 2) if cancelled else None
    team = TEAM_NAMES[number % len(TEAM_NAMES)]
    model = MODELS[0] if team == "warned" else MODELS[number % len(MODELS)]
    return PlannedBatch(number, team, model, count, bad, starts_after, cancel_after, rng.random() < 0.5)


def _small(rng: random.Random, number: int, team: str, kills: int, lines: int) -> PlannedBatch:
    count = rng.randint(max(1, lines // 8), max(1, lines // 5))
    model = MODELS[0] if team == "warned" else rng.choice(MODELS)
    starts_after = rng.randint(0, int(kills * 0.9))
    return PlannedBatch(number, team, model, count, frozenset(), starts_after, None, rng.random() < 0.5)


def _strike(rng: random.Random) -> Strike:
    everything = rng.random() < 0.04
    target = rng.choices(list(SERVICES), list(SERVICES.values()))[0]
    number = rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    pause, stopped = round(rng.uniform(0.1, 2.0), 2), round(rng.uniform(0.8, 2.5), 2)
    settles = rng.random() < 0.6
    if everything:
        return Strike(tuple(SERVICES), signal.SIGKILL, pause, 0.0, settles)
    return Strike((target,), number, pause, stopped if number is signal.SIGSTOP else 0.0, settles)


def _mood(rng: random.Random) -> Mood:
    return Mood(rng.choice(list(MoodKind)), round(rng.uniform(1.0, 8.0), 2), round(rng.uniform(0.5, 3.0), 2))
