"""How limits are found, kept, given up and shared: the limiter against servers in simulated time, as pictures.

    PYTHONPATH=tests .venv/bin/python benchmarks/convergence.py [--into docs]

The servers and the clients are those of tests/unit/batch_runner/test_limiter.py, which asserts what is drawn here.
Takes seconds, gives the same pictures every time, and prints what they come to.
"""

import argparse
import random
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

from charts import BLUE, GREEN, GREY, RED, Chart, Point, page

from batchyard.batch_runner.limiter import Limiter
from support.continuous_batching import Batch, Foreground, Server, simulate

CEILING = 512
SLOTS = 64
FIXED = 128
TOKENS = 100.0


def runner(server: Server, start: int = 32, *, seed: int = 1, **more: float) -> Batch:
    return Batch(server, Limiter(start, CEILING), random.Random(seed), tokens=TOKENS, **more)  # type: ignore[arg-type]


def fixed(server: Server) -> Batch:
    return Batch(server, Limiter(FIXED, FIXED, least=FIXED), random.Random(1), tokens=TOKENS)


def requests_per_second(batch: Batch, seconds: float, window: float = 2.0) -> list[Point]:
    """What it got done, over a window that moves along."""
    ends = [when for when, _ in batch.done]
    done = [0.0]
    for _, tokens in batch.done:
        done.append(done[-1] + tokens / TOKENS)
    points = []
    for half in range(int(2 * seconds) + 1):
        now = half / 2
        since = max(0.0, now - window)
        work = done[bisect_left(ends, now)] - done[bisect_left(ends, since)]
        points.append((now, work / window))
    return points


def limits(batch: Batch) -> list[Point]:
    return [(at, float(decision.limit)) for at, decision in batch.decisions]


def waiting(batch: Batch) -> list[Point]:
    return [(at, load.waiting) for at, load in batch.loads]


def flat(value: float, seconds: float) -> list[Point]:
    return [(0.0, value), (seconds, value)]


def best(server: Server) -> float:
    """The most requests per second that a server can do."""
    return server.best(TOKENS) / TOKENS


def from_both_sides(seconds: float = 60.0) -> str:
    """One server, three places to begin at."""
    rate = Chart(f"requests/s of a server with {SLOTS} slots", seconds, 100.0)
    limit = Chart("limit", seconds, 420.0)
    rate.line("best", flat(best(Server(SLOTS)), seconds), GREY, dashed=True)
    limit.line("slots", flat(SLOTS, seconds), GREY, dashed=True)
    for start, colour in ((4, BLUE), (32, GREEN), (400, RED)):
        server = Server(SLOTS)
        batch = runner(server, start)
        simulate(server, [batch], seconds)
        rate.line(f"from {start}", requests_per_second(batch, seconds), colour)
        limit.line(f"from {start}", [(0.0, float(start)), *limits(batch)], colour)
        share = batch.throughput(seconds / 2) / server.best(TOKENS)
        print(f"from {start}: {share:.0%} of the best in the second half, limit {batch.limiter.limit}")
    return page(rate, limit)


def another_capacity(seconds: float = 240.0) -> str:
    """A server that loses half of its slots, and gets twice as many."""
    changes = ((0.0, SLOTS), (60.0, SLOTS // 2), (120.0, SLOTS), (180.0, 2 * SLOTS))
    server = Server(SLOTS)
    batch = runner(server)
    for (begins, slots), ends in zip(changes, [at for at, _ in changes[1:]] + [seconds], strict=True):
        server.slots = slots
        simulate(server, [batch], ends)
        settled = (begins + ends) / 2
        share = batch.throughput(settled) / server.best(TOKENS)
        print(f"{slots} slots from {begins:.0f} s: {share:.0%} of the best from {settled:.0f} s to {ends:.0f} s")
    rate = Chart("requests/s of a server whose slots become half as many, and twice as many", seconds, 160.0)
    limit = Chart("limit, and what waits in the server", seconds, 160.0)
    steps = [point for at, slots in changes for point in ((at, slots), (min(at + 60.0, seconds), slots))]
    rate.line("best", [(at, best(Server(int(slots)))) for at, slots in steps], GREY, dashed=True)
    rate.line("batch", requests_per_second(batch, seconds), BLUE)
    limit.line("slots", steps, GREY, dashed=True)
    limit.line("limit", limits(batch), BLUE)
    limit.line("waiting", waiting(batch), RED)
    return page(rate, limit)


def two_runners(seconds: float = 180.0) -> str:
    """Two runners that know nothing of each other; the second comes later, and the first ends before it."""
    server = Server(SLOTS)
    first, second = runner(server, ends=140.0), runner(server, seed=2, begins=30.0)
    simulate(server, [first, second], 140.0)
    shares = [one.throughput(60.0) / server.best(TOKENS) for one in (first, second)]
    simulate(server, [first, second], seconds)
    print(f"two runners: {shares[0]:.0%} and {shares[1]:.0%} of the server from 60 s to 140 s")
    rate = Chart("requests/s of two runners on one server; the first ends at 140 s", seconds, 80.0)
    limit = Chart("their limits", seconds, 80.0)
    rate.line("best", flat(best(server), seconds), GREY, dashed=True)
    for name, batch, colour in (("first", first, BLUE), ("second", second, RED)):
        rate.line(name, requests_per_second(batch, seconds), colour)
        limit.line(name, limits(batch), colour)
    return page(rate, limit)


def beside_people(seconds: float = 120.0) -> str:
    """Bursts of people's requests: beside no batch, one with a fixed number in flight, and one that yields."""
    alone = Server(SLOTS)
    people = Foreground(alone)
    simulate(alone, [people], seconds)
    bursts = [(at, at + people.lasts) for at in _every(people, seconds)]
    baseline = people.quantile(0.99)
    rate = Chart("requests/s of the batch; bursts of people's requests are shaded", seconds, 80.0, bursts)
    latency = Chart("p99 of a burst's requests, seconds", seconds, 4.0, bursts)
    rate.line("best", flat(best(alone), seconds), GREY, dashed=True)
    latency.line("no batch", p99_by_burst(people, seconds), GREEN)
    for name, make, colour in ((f"fixed {FIXED}", fixed, RED), ("adaptive", runner, BLUE)):
        server = Server(SLOTS)
        batch, guests = make(server), Foreground(server)
        simulate(server, [batch, guests], seconds)
        rate.line(name, requests_per_second(batch, seconds), colour)
        latency.line(name, p99_by_burst(guests, seconds), colour)
        p99, work = guests.quantile(0.99), batch.throughput(10) / TOKENS
        print(f"people beside {name}: p99 {p99:.2f} s, {p99 / baseline:.2f}× of no batch; batch {work:.0f} requests/s")
    return page(rate, latency)


def _every(people: Foreground, seconds: float) -> Iterable[float]:
    at = people.begins
    while at < seconds:
        yield at
        at += people.every


def p99_by_burst(people: Foreground, seconds: float) -> list[Point]:
    points = []
    for at in _every(people, seconds):
        took = sorted(latency for sent, latency in people.latencies if at <= sent < at + people.every)
        if took:
            points.append((at, took[min(len(took) - 1, int(0.99 * len(took)))]))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path("docs"), help="the directory for the pictures")
    options = parser.parse_args()
    pictures = {
        "limit-found": from_both_sides,
        "limit-capacity": another_capacity,
        "limit-shared": two_runners,
        "limit-yields": beside_people,
    }
    for name, draw in pictures.items():
        (options.into / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
