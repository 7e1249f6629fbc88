"""A server with continuous batching and its clients, in simulated time: what limits are tried out on.

All running requests share the engine equally, so each advances by the same number of tokens: the engine's work is one
number, and a request ends when it has grown by the request's length.
"""

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field, replace

from batchyard.batch_runner.limiter import Limiter
from batchyard.batch_runner.observation import Load, Observation
from batchyard.batch_runner.verdict import Decision

TICK = 0.05


@dataclass
class Request:
    owner: object
    sent: float
    tokens: float
    prompt: float
    number: int
    ends: float = 0.0
    admitted: float = 0.0
    is_gone: bool = False


@dataclass
class Server:
    """A step takes as long for one request as for `knee` of them, and longer beyond.

    Attributes:
        slots: Requests that run at once.
        knee: Requests up to which a batch costs no time.
        step: Seconds for one token.
        kv_tokens: Tokens that fit into the KV cache.
        is_stepwise: Whether it takes requests in only between two steps, `step` (a tick or more) apart, and tells its
            load as of the last step's end, without who has ended or come in it: as vLLM does.
    """

    slots: int = 64
    knee: float = 1e9
    step: float = 0.01
    kv_tokens: float = 1e9
    refuses_above: int | None = None
    is_stepwise: bool = False
    now: float = 0.0
    preemptions: int = 0
    _told: Load = field(default_factory=lambda: Load(0, 0))
    _told_waiting: int = 0
    _coming: list[tuple[float, int, Request]] = field(default_factory=list)
    _work: float = 0.0
    _running: list[tuple[float, int, Request]] = field(default_factory=list)
    _alive: dict[int, Request] = field(default_factory=dict)
    _queue: deque[Request] = field(default_factory=deque)
    _kv_base: float = 0.0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def running(self) -> int:
        return len(self._alive)

    @property
    def waiting(self) -> int:
        return sum(1 for request in self._queue if not request.is_gone)

    @property
    def kv_used(self) -> float:
        return self._kv_base + len(self._alive) * self._work

    @property
    def load(self) -> Load:
        return self._told if self.is_stepwise else self._load

    @property
    def _load(self) -> Load:
        return Load(self.running, self.waiting, min(1.0, self.kv_used / self.kv_tokens), self.preemptions)

    def best(self, tokens: float, prompt: float = 0.0, kv_share: float = 0.9) -> float:
        """The most tokens per second with requests of this length on average."""
        fits = kv_share * self.kv_tokens / (prompt + tokens / 2)
        return min(self.slots, self.knee, fits) / self.step

    def send(self, owner: object, tokens: float, prompt: float = 0.0, way: float = 0.0) -> Request | None:
        """A request that is there after `way` seconds; None if it is refused with 429."""
        if self.refuses_above is not None and self.running + len(self._queue) >= self.refuses_above:
            return None
        request = Request(owner, self.now, tokens, prompt, next(self._numbers))
        if way:
            heapq.heappush(self._coming, (self.now + way, request.number, request))
        else:
            self._arrive(request)
        return request

    def _arrive(self, request: Request) -> None:
        self._queue.append(request)
        if not self.is_stepwise:
            self._admit()

    def abort(self, request: Request) -> None:
        request.is_gone = True
        if self._alive.pop(request.number, None) is not None:
            self._kv_base -= request.prompt - request.admitted

    def advance(self) -> list[Request]:
        """One tick; the requests that ended in it."""
        self.now += TICK
        while self._coming and self._coming[0][0] <= self.now:
            self._arrive(heapq.heappop(self._coming)[2])
        steps = math.floor(self._work)
        self._work += TICK / (self.step * max(1.0, self.running / self.knee))
        if self.is_stepwise and math.floor(self._work) == steps:
            return []
        ended = []
        while self._running and (self._running[0][0] <= self._work or self._running[0][2].is_gone):
            request = heapq.heappop(self._running)[2]
            if not request.is_gone and request.number in self._alive:
                self.abort(request)
                ended.append(request)
        while self.kv_used > self.kv_tokens and len(self._alive) > 1:
            youngest = self._alive[max(self._alive)]
            self.abort(youngest)
            self.preemptions += 1
            self._running = [entry for entry in self._running if entry[2] is not youngest]
            heapq.heapify(self._running)
            youngest.is_gone = False
            self._queue.appendleft(youngest)
        self._told = replace(self._load, waiting=self._told_waiting)
        self._admit()
        self._told_waiting = self.waiting
        return ended

    def _admit(self) -> None:
        while self._queue and self.running < self.slots:
            request = self._queue[0]
            if not request.is_gone and self.kv_used + request.prompt > 0.98 * self.kv_tokens and self._alive:
                return
            self._queue.popleft()
            if request.is_gone:
                continue
            request.admitted, request.ends = self._work, self._work + request.tokens
            self._kv_base += request.prompt - request.admitted
            self._alive[request.number] = request
            heapq.heappush(self._running, (request.ends, request.number, request))


@dataclass
class Batch:
    """A runner that has as much in flight as its limiter lets it have.

    Attributes:
        period: Seconds between two looks.
        has_metrics: Whether the server tells its load.
        spread: How much lengths differ: 0 not at all, 1 from next to nothing to twice the mean.
        way: Seconds that a request is under way to the server.
        begins: The second at which it begins.
        ends: The second from which it sends nothing more.
    """

    server: Server
    limiter: Limiter
    rng: random.Random
    tokens: float = 100.0
    prompt: float = 0.0
    period: float = 0.25
    has_metrics: bool = True
    spread: float = 0.5
    way: float = 0.0
    begins: float = 0.0
    ends: float = math.inf
    in_flight: dict[int, Request] = field(default_factory=dict)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    loads: list[tuple[float, Load]] = field(default_factory=list)
    done: list[tuple[float, float]] = field(default_factory=list)  # (when, tokens)
    aborted: int = 0
    _seconds: float = 0.0
    _completions: int = 0
    _tokens: float = 0.0
    _throttled: int = 0
    _most: int = 0
    _look_at: float = 0.0

    def act(self) -> None:
        if self.server.now < self.begins:
            return
        if self.server.now >= self._look_at:
            self._look_at = self.server.now + self.period * self.rng.uniform(0.8, 1.2)
            self._look()
        self._refill()

    def _refill(self) -> None:
        while len(self.in_flight) < self.limiter.limit and self.server.now < self.ends:
            length = self.tokens * self.rng.uniform(1 - self.spread, 1 + self.spread)
            request = self.server.send(self, length, self.prompt, self.way)
            if request is None:
                self._throttled += 1
                break
            self.in_flight[request.number] = request
            self._most = max(self._most, len(self.in_flight))

    def took(self, request: Request) -> None:
        del self.in_flight[request.number]
        self._seconds += self.server.now - request.sent
        self._completions += 1
        self._tokens += request.tokens
        self.done.append((self.server.now, request.tokens))
        self._refill()

    def throughput(self, since: float) -> float:
        """Tokens per second from then until now."""
        return sum(tokens for when, tokens in self.done if when > since) / (self.server.now - since)

    def _look(self) -> None:
        load = self.server.load
        self.loads.append((self.server.now, load))
        seen = Observation(
            now=self.server.now,
            in_flight=len(self.in_flight),
            completions=self._completions,
            tokens=round(self._tokens),
            seconds=self._seconds,
            load=load if self.has_metrics else None,
            most=self._most,
            throttled=self._throttled,
        )
        self._seconds, self._completions, self._tokens, self._throttled = 0.0, 0, 0.0, 0
        decision = self.limiter.observe(seen)
        self.decisions.append((self.server.now, decision))
        for number in list(reversed(self.in_flight))[: decision.abort]:
            self.server.abort(self.in_flight.pop(number))
            self.aborted += 1
        self._most = len(self.in_flight)


@dataclass
class Foreground:
    """People: requests that come in bursts, whatever the server does.

    Attributes:
        every: Seconds from the start of one burst to that of the next.
        lasts: Seconds that a burst takes to come in.
        size: Requests in it.
    """

    server: Server
    tokens: float = 100.0
    every: float = 8.0
    lasts: float = 1.0
    size: int = 16
    begins: float = 10.0
    latencies: list[tuple[float, float]] = field(default_factory=list)
    _sent: int = 0

    def act(self) -> None:
        since = self.server.now - self.begins
        if since < 0:
            return
        bursts, within = divmod(since, self.every)
        due = int(bursts) * self.size + min(self.size, int(within / self.lasts * self.size) + 1)
        for _ in range(due - self._sent):
            self.server.send(self, self.tokens)
        self._sent = due

    def took(self, request: Request) -> None:
        self.latencies.append((request.sent, self.server.now - request.sent))

    def quantile(self, share: float) -> float:
        """The latency that `share` of the requests stay within."""
        ordered = sorted(latency for _, latency in self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def simulate(server: Server, clients: list[Batch | Foreground], until: float) -> None:
    """Let the time go on until that second."""
    while server.now < until:
        for request in server.advance():
            request.owner.took(request)  # type: ignore[attr-defined]
        for client in clients:
            client.act()
