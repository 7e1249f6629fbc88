"""Whose shards may be queued, in simulated time: many more batches than runners can take shards."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.turns import Standing, may_queue, next_in_turn

SLOTS = 32
FAR = 1e9


def standing(
    key: str, tenant: str = "t", queued: int = 0, unqueued: int = 1, changed: int = 0, **more: float
) -> Standing:
    return Standing(key, tenant, "m", queued, unqueued, changed, more.get("expires_at", FAR))


@dataclass
class Hall:
    """Batches whose shards take a second each, `SLOTS` at a time, first come, first served; steps come at once."""

    standings: dict[str, Standing] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    ended_at: dict[str, int] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    now: int = 0
    revision: int = 0

    def come(self, key: str, tenant: str, shards: int, expires_at: float = FAR) -> None:
        self._change(Standing(key, tenant, "m", 0, shards, 0, expires_at))
        self.step(key)

    def step(self, key: str) -> None:
        one = self.standings[key]
        more = min(one.unqueued, may_queue(one, self.standings.values(), SLOTS, self.now))
        if more:
            self.queue += [key] * more
            self._change(replace(one, queued=one.queued + more, unqueued=one.unqueued - more))

    def pass_a_second(self) -> None:
        while self.queue and len(self.running) < SLOTS:
            self.running.append(self.queue.pop(0))
        self.now += 1
        done, self.running = self.running, []
        for key in done:
            self.served.append(key)
            one = self.standings[key]
            self._change(replace(one, queued=one.queued - 1))
            if one.queued == 1 and not one.unqueued:
                del self.standings[key]
                self.ended_at[key] = self.now
            else:
                self.step(key)
            for turn in next_in_turn("m", self.standings.values(), SLOTS, self.now):
                self.step(turn.key)

    def run(self) -> None:
        while self.standings:
            self.pass_a_second()
            assert self.now < 10_000, "somebody starves"

    def _change(self, one: Standing) -> None:
        self.revision += 1
        self.standings[one.key] = replace(one, changed=self.revision)


def test_a_batch_alone_leaves_half_to_the_next_one_of_its_tenant() -> None:
    assert may_queue(standing("a", unqueued=100), [], SLOTS, 0) == 14


def test_the_batches_of_a_tenant_get_nearly_all_but_what_is_kept_for_others() -> None:
    hall = Hall()
    for index in range(50):
        hall.come(f"a{index}", "a", shards=6)
    assert len(hall.queue) == 28
    assert len(set(hall.queue)) >= 9, "and many have begun"


def test_what_is_queued_counts() -> None:
    others = [standing(f"b{index}", queued=4, unqueued=0) for index in range(5)]
    assert may_queue(standing("a", queued=7, unqueued=100), others, SLOTS, 0) == 1
    assert may_queue(standing("a", queued=8, unqueued=100), others, SLOTS, 0) == 0


def test_batches_of_other_pools_do_not_count() -> None:
    others = [replace(standing(f"b{index}", queued=9), pool="n") for index in range(9)]
    assert may_queue(standing("a", unqueued=100), others, SLOTS, 0) == 14


def test_a_tenant_that_comes_finds_slots_free_however_many_batches_another_has() -> None:
    hall = Hall()
    for index in range(200):
        hall.come(f"a{index}", "a", shards=5)
    assert len(hall.queue) == 28
    hall.come("b", "b", shards=1)
    hall.run()
    assert hall.ended_at["b"] == 1


def test_tenants_get_the_same_whatever_they_have() -> None:
    hall = Hall()
    for index in range(200):
        hall.come(f"a{index}", "a", shards=5)
    for index in range(20):
        hall.come(f"b{index}", "b", shards=10)
    for _ in range(12):
        hall.pass_a_second()
    late = hall.served[-5 * 28 :]
    share = sum(key.startswith("b") for key in late) / len(late)
    assert 0.45 <= share <= 0.55


def test_the_batches_of_a_tenant_take_turns() -> None:
    hall = Hall()
    for index in range(100):
        hall.come(f"a{index}", "a", shards=50)
    for _ in range(40):
        hall.pass_a_second()
    served = hall.served[28:]  # the first ones found much free
    counts = [served.count(f"a{index}") for index in range(100)]
    assert min(counts) >= max(counts) // 2 > 0


def test_a_small_batch_among_a_tenants_large_ones_has_its_turn_within_a_round() -> None:
    hall = Hall()
    for index in range(100):
        hall.come(f"a{index}", "a", shards=100)
    hall.pass_a_second()
    hall.come("small", "a", shards=1)
    hall.run()
    assert hall.ended_at["small"] <= 1 + 100 // 28 + 2


def test_one_near_its_deadline_goes_first() -> None:
    hall = Hall()
    for index in range(100):
        hall.come(f"a{index}", "a", shards=10)
    hall.come("urgent", "a", shards=1, expires_at=60)
    hall.run()
    assert hall.ended_at["urgent"] <= 3


def test_more_tenants_than_slots_have_one_each() -> None:
    hall = Hall()
    for index in range(50):
        hall.come(f"t{index}", f"tenant {index}", shards=4)
    hall.run()
    assert max(hall.ended_at.values()) <= 4 * 50 / 32 + 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8)), min_size=1, max_size=80))
def test_nobody_starves_and_no_slot_is_left_empty_for_long(batches: list[tuple[int, int]]) -> None:
    hall = Hall()
    for index, (tenant, shards) in enumerate(batches):
        hall.come(f"b{index}", f"t{tenant}", shards)
    hall.run()
    assert len(hall.served) == sum(shards for _, shards in batches)
