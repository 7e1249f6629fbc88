"""The limit of a deployment, against servers in simulated time: it is found, kept, given up and shared."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.batch_runner.limiter import Limiter
from batchyard.batch_runner.observation import Load, Observation
from batchyard.batch_runner.server_queue import queue_target
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.verdict import CUTS, Reason
from support.continuous_batching import Batch, Foreground, Server, simulate

SEEDS = range(6)
CEILING = 512
PERIOD = RunnerSettings().control_interval


def runner(server: Server, seed: int, start: int = 32, **more: object) -> Batch:
    return Batch(server, Limiter(start, CEILING), random.Random(seed), period=PERIOD, **more)  # type: ignore[arg-type]


LONG_ANSWERS = "KV cache, long answers"
SERVERS = {
    "64 slots": Server(slots=64),
    "256 slots": Server(slots=256),
    "8 slots": Server(slots=8),
    "slow": Server(slots=64, step=0.05),
    "a knee at 64": Server(slots=256, knee=64),
    "KV cache": Server(slots=256, kv_tokens=10_000),
    LONG_ANSWERS: Server(slots=256, kv_tokens=40_000, step=0.02),
}
CLIENTS = {"KV cache": {"prompt": 100.0}, LONG_ANSWERS: {"prompt": 50.0, "tokens": 1000.0}}


def fresh(name: str) -> Server:
    known = SERVERS[name]
    return Server(known.slots, known.knee, known.step, known.kv_tokens)


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("start", [4, 32, 400])
@pytest.mark.parametrize("name", [name for name in SERVERS if name != LONG_ANSWERS])
def test_the_best_throughput_is_found_from_below_and_from_above(name: str, start: int, seed: int) -> None:
    server = fresh(name)
    batch = runner(server, seed, start, prompt=100 if name == "KV cache" else 0)
    simulate(server, [batch], 60)
    since = server.now
    simulate(server, [batch], 110)
    assert batch.throughput(since) >= 0.9 * server.best(batch.tokens, batch.prompt)


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("kv_tokens", [5_000, 20_000])
def test_another_kv_cache_is_found_out_and_hardly_anybody_loses_a_place_in_it(kv_tokens: int, seed: int) -> None:
    server = fresh("KV cache")
    batch = runner(server, seed, prompt=100)
    simulate(server, [batch], 60)
    server.kv_tokens = kv_tokens
    simulate(server, [batch], 90)
    since, preempted = server.now, server.preemptions
    simulate(server, [batch], 150)
    assert batch.throughput(since) >= 0.9 * server.best(batch.tokens, batch.prompt)
    assert server.preemptions - preempted <= 0.03 * sum(when > since for when, _ in batch.done)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_what_is_on_its_way_to_the_server_leaves_no_slot_empty(seed: int) -> None:
    """Short answers, and three steps of the engine until the next request is there."""
    done = []
    for limiter in (Limiter(256, 256, least=256), Limiter(32, CEILING)):
        server = Server(slots=128, step=0.05, is_stepwise=True)
        batch = Batch(server, limiter, random.Random(seed), tokens=28, way=0.15)
        simulate(server, [batch], 10)
        since = server.now
        simulate(server, [batch], 60)
        done.append(batch.throughput(since))
    overfull, found = done
    assert found >= 0.97 * overfull


def test_where_more_brings_nothing_more_is_seldom_tried() -> None:
    server = fresh("a knee at 64")
    batch = runner(server, 0)
    simulate(server, [batch], 60)
    since = len(batch.decisions)
    simulate(server, [batch], 160)
    decisions = [decision for _, decision in batch.decisions[since:]]
    limits, reasons = [found.limit for found in decisions], [found.reason for found in decisions]
    assert 0 < reasons.count(Reason.GROWING) <= 10, "once in ten seconds at most"
    assert reasons.count(Reason.FLAT) > reasons.count(Reason.GROWING)
    assert max(limits) <= 1.25 * min(limits), "and given up again"


@pytest.mark.parametrize("seed", SEEDS[:4])
@pytest.mark.parametrize("name", ["64 slots", "256 slots", "a knee at 64"])
def test_it_is_found_without_metrics_too(name: str, seed: int) -> None:
    server = fresh(name)
    batch = runner(server, seed, has_metrics=False)
    simulate(server, [batch], 60)
    since = server.now
    simulate(server, [batch], 150)
    assert batch.throughput(since) >= 0.9 * server.best(batch.tokens)
    assert batch.limiter.limit < 4 * min(server.slots, server.knee), "and is not passed by far"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_server_of_another_capacity_is_found_out(factor: float, seed: int) -> None:
    server = Server(slots=64)
    batch = runner(server, seed)
    simulate(server, [batch], 60)
    server.slots = int(64 * factor)
    simulate(server, [batch], 120)
    since = server.now
    simulate(server, [batch], 180)
    assert batch.throughput(since) >= 0.9 * server.best(batch.tokens)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["64 slots", "256 slots", "KV cache"])
def test_two_runners_share_a_server_evenly(name: str, seed: int) -> None:
    server = fresh(name)
    prompt = 100 if name == "KV cache" else 0
    first = runner(server, seed, prompt=prompt)
    second = runner(server, 1000 + seed, prompt=prompt, begins=20.0)
    simulate(server, [first, second], 120)
    since = server.now
    simulate(server, [first, second], 300)
    shares = [first.throughput(since), second.throughput(since)]
    assert max(shares) <= 1.25 * min(shares), shares
    assert sum(shares) >= 0.85 * server.best(100, prompt)


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_runners_that_leave_room_for_each_other_come_to_equal_shares_soon(seed: int) -> None:
    """Each takes the other's earlier load for people's, who may come back."""
    server = Server(slots=128, step=0.05, is_stepwise=True)
    first, second = (
        Batch(server, Limiter(32, CEILING), random.Random(seed + more), tokens=28, way=0.15, begins=begins)
        for more, begins in ((0, 0.0), (1000, 10.0))
    )
    simulate(server, [first, second], 20)
    since = server.now
    simulate(server, [first, second], 40)
    shares = [first.throughput(since), second.throughput(since)]
    assert max(shares) <= 2 * min(shares), shares


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["64 slots", "256 slots"])
def test_a_runner_that_comes_later_does_not_push_out_who_is_there(name: str, seed: int) -> None:
    server = fresh(name)
    first, second = runner(server, seed), runner(server, 1000 + seed, begins=20.0)
    simulate(server, [first, second], 30)
    for end in (40, 50, 60, 80):
        since = server.now
        simulate(server, [first, second], end)
        assert first.throughput(since) >= 0.3 * server.best(100), end
    assert second.throughput(40) >= 0.3 * server.best(100), "and gets its share soon"


@pytest.mark.parametrize("seed", SEEDS[:4])
@pytest.mark.parametrize("start", [4, 200, 400])
@pytest.mark.parametrize("name", ["64 slots", "256 slots", "8 slots", "KV cache", LONG_ANSWERS])
def test_no_queue_lasts(name: str, start: int, seed: int) -> None:
    """Nor in a small KV cache, where those that run grow, and push out others after too many were taken back."""
    server = fresh(name)
    batch = runner(server, seed, start, **CLIENTS.get(name, {}))
    simulate(server, [batch], 30)
    longest = run = 0
    for _, load in batch.loads:
        run = run + 1 if load.waiting > queue_target(load) else 0
        longest = max(longest, run)
    assert longest <= 5, "four periods after it was first seen"


@given(
    slots=st.integers(4, 200),
    step=st.floats(0.005, 0.03),
    spread=st.floats(0, 0.9),
    start=st.integers(1, 300),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=25)
def test_noise_does_not_make_it_collapse(slots: int, step: float, spread: float, start: int, seed: int) -> None:
    server = Server(slots=slots, step=step)
    batch = runner(server, seed, start, spread=spread)
    simulate(server, [batch], 60)
    since = server.now
    simulate(server, [batch], 120)
    assert batch.throughput(since) >= 0.8 * server.best(batch.tokens)


@pytest.mark.parametrize("seed", SEEDS)
def test_foreground_keeps_its_latency(seed: int) -> None:
    alone = Server(slots=64)
    people = Foreground(alone)
    simulate(alone, [people], 120)
    server = Server(slots=64)
    batch, guests = runner(server, seed, spread=0.3), Foreground(server)
    simulate(server, [batch, guests], 120)
    assert guests.quantile(0.99) <= 1.25 * people.quantile(0.99)
    assert batch.throughput(10) >= 0.7 * server.best(batch.tokens), "and the batch has the rest"


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_server_that_refuses_is_given_less_than_it_refuses_at(seed: int) -> None:
    server = Server(slots=64, refuses_above=50)
    batch = runner(server, seed)
    simulate(server, [batch], 60)
    since, refused = server.now, sum(d.reason is Reason.THROTTLED for _, d in batch.decisions)
    simulate(server, [batch], 120)
    assert batch.throughput(since) >= 0.8 * 50 / server.step
    assert sum(d.reason is Reason.THROTTLED for _, d in batch.decisions) - refused <= 8


# --- single decisions


def looks(limiter: Limiter, *seen: Observation) -> list[tuple[int, Reason, int]]:
    return [(found.limit, found.reason, found.abort) for found in map(limiter.observe, seen)]


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Observation(1.0, 32, throttled=1), Reason.THROTTLED),
        (Observation(1.0, 32, timeouts=1), Reason.TIMEOUTS),
        (Observation(1.0, 32, load=Load(32, 30)), Reason.BURST),
        (Observation(1.0, 32, load=Load(16, 16)), Reason.QUEUE),
        (Observation(1.0, 32, load=Load(32, 0, kv_usage=0.98)), Reason.KV_CACHE),
        (Observation(1.0, 32, load=Load(32, 0, preemptions=3)), Reason.PREEMPTIONS),
    ],
)
def test_every_sign_of_too_much_cuts(after: Observation, reason: Reason) -> None:
    limiter = Limiter(32, CEILING)
    ((before, _, _), (limit, why, _)) = looks(limiter, Observation(0.0, 32, load=Load(32, 0, 0.1, 0)), after)
    assert why is reason
    assert reason in CUTS
    assert limit < before


def test_others_who_wait_and_as_many_more_get_the_youngest_places() -> None:
    limiter = Limiter(64, CEILING)
    before, burst = Observation(0.0, 64, load=Load(64, 0)), Observation(0.5, 64, load=Load(64, 10))
    assert looks(limiter, before, burst)[1] == (44, Reason.BURST, 20)


def test_a_long_queue_of_our_own_is_taken_back() -> None:
    limiter = Limiter(64, CEILING)
    found = looks(limiter, Observation(0.0, 32, load=Load(32, 0)), Observation(0.5, 64, load=Load(32, 32)))
    assert found[1] == (32, Reason.QUEUE, 30)


def test_what_was_taken_back_is_nobody_elses_load() -> None:
    limiter = Limiter(64, CEILING)
    seen = [
        Observation(0.0, 32, load=Load(32, 0)),
        Observation(0.5, 64, load=Load(32, 32)),
        Observation(1.0, 32, load=Load(32, 27)),  # the server has not got rid of them yet
        Observation(1.5, 32, load=Load(32, 0)),
    ]
    cut, *after = looks(limiter, *seen)[1:]
    assert cut == (32, Reason.QUEUE, 30)
    assert [(limit, abort) for limit, _, abort in after] == [(32, 0), (32, 0)]
    assert Reason.BURST not in [reason for _, reason, _ in after]
    assert Reason.YIELDING not in [reason for _, reason, _ in after], "and nobody needs room"


def test_who_lost_its_place_after_others_were_taken_back_is_seen_to_wait() -> None:
    limiter = Limiter(64, CEILING)
    seen = [
        Observation(0.0, 32, load=Load(32, 0)),
        Observation(0.25, 64, load=Load(32, 32)),
        Observation(0.5, 34, load=Load(24, 10)),  # no more than are in flight, so the others have gone
    ]
    assert looks(limiter, *seen)[1:] == [(32, Reason.QUEUE, 30), (24, Reason.QUEUE, 8)]


def test_it_is_doubled_as_soon_as_the_server_is_seen_to_take_what_it_was_sent() -> None:
    limiter = Limiter(32, CEILING)
    assert limiter.is_ramping, "so it pays to look soon"
    seen = [
        Observation(0.0, 32, load=Load(0, 0)),
        Observation(0.1, 64, load=Load(32, 0)),  # what was sent last is not to be seen yet
        Observation(0.2, 64, load=Load(60, 0)),
    ]
    assert [limit for limit, _, _ in looks(limiter, *seen)] == [64, 64, 128]
    assert limiter.is_ramping
    looks(limiter, Observation(1.2, 128, load=Load(120, 0)))
    assert not limiter.is_ramping


def test_a_short_queue_runs_out_by_itself() -> None:
    limiter = Limiter(40, CEILING)
    seen = [Observation(at / 2, 37, load=Load(32, 5)) for at in range(2)]
    assert looks(limiter, *seen)[1] == (32, Reason.QUEUE, 0)


def test_one_that_does_not_is_taken_back() -> None:
    limiter = Limiter(40, CEILING)
    seen = [Observation(at / 4, 37, load=Load(32, 5, kv_usage=0.5)) for at in range(4)]
    assert looks(limiter, *seen)[2:] == [(32, Reason.QUEUE, 0), (32, Reason.QUEUE, 3)]


def test_where_a_full_kv_cache_goes_on_pushing_requests_out_what_is_left_gets_room_to_grow() -> None:
    limiter = Limiter(40, CEILING)
    seen = [Observation(at / 4, 37, load=Load(32, 5, kv_usage=1.0)) for at in range(4)]
    assert looks(limiter, *seen)[3] == (29, Reason.QUEUE, 6), "of which five waited"


def test_one_cut_has_to_show_its_effect_before_the_next() -> None:
    limiter = Limiter(64, CEILING)
    found = looks(limiter, *(Observation(at / 10, 64, throttled=5) for at in range(5)))
    assert {limit for limit, _, _ in found} == {32}


def test_after_refusals_nothing_is_left_free_for_others_who_had_been_there_before() -> None:
    """Two runners were at the server, which then refused for a while; the other one has gone."""
    limiter, now = Limiter(16, 16), 0.0

    def look(others: int, throttled: int) -> int:
        nonlocal now
        now += 0.5
        running = limiter.limit
        done = running * 2
        seen = Observation(now, running, done, 0, done * 0.2, Load(running + others, 0), throttled=throttled)
        return limiter.observe(seen).limit

    for _ in range(20):
        look(14, 0)
    while look(0, 1) > 1:
        pass
    assert [look(0, 0) for _ in range(40)][-1] == 16


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 50), st.floats(0, 90), st.booleans()), max_size=60))
def test_the_limit_stays_within_its_bounds_whatever_is_seen(seen: list[tuple[int, int, float, bool]]) -> None:
    limiter = Limiter(32, 48, least=2)
    for at, (in_flight, completions, seconds, has_load) in enumerate(seen):
        load = Load(in_flight / 2, seconds, seconds / 90, at) if has_load else None
        found = limiter.observe(Observation(at / 2, in_flight, completions, 0, seconds, load, throttled=at % 7 == 3))
        assert 2 <= found.limit <= 48
        assert 0 <= found.abort <= in_flight


def test_a_lower_ceiling_holds_at_once() -> None:
    limiter = Limiter(32, CEILING)
    limiter.bound(8)
    assert limiter.limit == 8
    assert looks(limiter, Observation(0.0, 8, load=Load(8, 0)))[0][0] == 8


def test_a_deployment_that_was_left_alone_is_begun_anew() -> None:
    server = Server(slots=256)
    batch = runner(server, 1)
    simulate(server, [batch], 30)
    assert batch.limiter.limit > 200
    found = batch.limiter.observe(Observation(server.now + 60, 1, load=Load(1, 0)))
    assert found.limit == 32


def test_too_few_requests_tell_nothing() -> None:
    limiter = Limiter(32, CEILING)
    seen = [Observation(at / 2, 3, 30, 0, 3.0, Load(3, 0)) for at in range(60)]
    assert {found.limit for found in map(limiter.observe, seen)} == {32}


def test_beside_others_it_grows_by_steps_that_are_no_burst_to_them() -> None:
    server = Server(slots=64)
    first, second = runner(server, 1), runner(server, 2, begins=15.0)
    simulate(server, [first, second], 200)
    steps = [after[1].limit - now[1].limit for now, after in pairwise(second.decisions) if now[0] > 20]
    assert max(steps) <= 0.1 * server.slots
    assert not any(found.reason is Reason.BURST for at, found in first.decisions if at > 30)
