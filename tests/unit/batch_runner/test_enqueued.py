"""What a tenant has enqueued: refusals, waiting, and counters that no interleaving puts wrong."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from batchyard.batch_runner.enqueued import (
    MOST_BATCHES,
    Bounds,
    Enqueued,
    EnqueuedRecord,
    Shortage,
    admitted,
    audited,
    forgotten,
    measured,
    released,
)
from batchyard.common.contracts.access import Limits
from batchyard.common.errors import TooManyRequests

NOW = 1_700_000_000.0


def batch(lines: int = 1, tokens: int = 10, **more: Any) -> Enqueued:
    return Enqueued(**{"lines": lines, "tokens": tokens, "at": NOW, **more})


def team(**limits: int) -> Bounds:
    return Bounds(team=Limits(**limits))


def with_batches(**batches: Enqueued) -> EnqueuedRecord:
    return EnqueuedRecord(batches=batches)


def refusal(record: EnqueuedRecord, wanted: Enqueued, bounds: Bounds) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as raised:
        admitted(record, "new", wanted, bounds)
    return raised.value


def test_a_batch_too_many_is_refused_with_the_limit_and_what_is_used() -> None:
    error = refusal(with_batches(a=batch(), b=batch()), batch(), team(max_batches=2))
    assert error.code == "rate_limit_exceeded"
    assert error.retry_after
    assert error.message == (
        "Enqueued batch limit reached for the team. Limit: 2 enqueued batches; 2 are enqueued. "
        "Please try again once some batches have ended."
    )


def test_lines_and_tokens_are_refused_in_openais_words() -> None:
    error = refusal(with_batches(a=batch(tokens=60_000)), batch(tokens=40_000), team(max_enqueued_tokens=90_000))
    assert error.code == "token_limit_exceeded"
    assert error.message.startswith(
        "Enqueued token limit reached for the team. Limit: 90,000 enqueued tokens; 60,000 are enqueued and this batch "
        "needs about 40,000."
    )
    error = refusal(with_batches(a=batch(lines=6)), batch(lines=5), team(max_enqueued_lines=10))
    assert "10 enqueued lines; 6 are enqueued and this batch needs 5." in error.message


def test_what_fits_exactly_is_admitted() -> None:
    record = admitted(with_batches(a=batch(lines=6)), "new", batch(lines=4), team(max_enqueued_lines=10))
    assert set(record.open()) == {"a", "new"}


def test_what_can_never_fit_is_told_so_and_names_no_time() -> None:
    error = refusal(EnqueuedRecord(), batch(lines=11), team(max_enqueued_lines=10))
    assert error.retry_after is None
    assert "split the file" in error.message


def test_a_limit_of_a_model_counts_batches_of_that_model_alone() -> None:
    bounds = Bounds(models={"m": Limits(max_enqueued_lines=10)})
    record = with_batches(a=batch(lines=9, models=("m",)), b=batch(lines=9, models=("other",)))
    error = refusal(record, batch(lines=2, models=("m",)), bounds)
    assert "for the model 'm' in the team" in error.message
    assert admitted(record, "new", batch(lines=2, models=("other",)), bounds).open()
    assert admitted(record, "new", batch(lines=1, models=("m",)), bounds).open()


def test_a_limit_of_a_key_counts_its_own_batches_alone() -> None:
    bounds = Bounds(key=Limits(max_batches=1))
    assert admitted(with_batches(a=batch(key="other")), "new", batch(key="mine"), bounds).open()
    assert "for the API key" in refusal(with_batches(a=batch(key="mine")), batch(key="mine"), bounds).message


def test_tokens_of_the_last_minute_come_back_by_the_clock() -> None:
    record = with_batches(
        a=batch(tokens=50, at=NOW - 61), b=batch(tokens=40, at=NOW - 50, ended=True), c=batch(tokens=40, at=NOW - 20)
    )
    error = refusal(record, batch(tokens=60), team(tpm_limit=100))
    assert (error.code, error.retry_after) == ("token_limit_exceeded", 10)
    assert "80 were enqueued in the last minute" in error.message
    assert admitted(record, "new", batch(tokens=60, at=NOW + 10.5), team(tpm_limit=100)).open()


def test_a_batch_beyond_a_minutes_tokens_names_no_time() -> None:
    assert refusal(EnqueuedRecord(), batch(tokens=101), team(tpm_limit=100)).retry_after is None


def test_even_without_a_limit_on_batches_there_is_one() -> None:
    record = EnqueuedRecord(batches={str(number): batch() for number in range(MOST_BATCHES)})
    assert "5,000 enqueued batches" in refusal(record, batch(), team(max_enqueued_lines=10**9)).message
    assert len(record.model_dump_json(exclude_defaults=True)) < 1_000_000


def test_admitting_again_changes_nothing() -> None:
    record = admitted(EnqueuedRecord(), "a", batch(lines=3), team(max_enqueued_lines=3))
    assert admitted(record, "a", batch(lines=3), team(max_enqueued_lines=3)) == record


def test_a_runner_that_stood_still_does_not_count_a_batch_again_that_is_over() -> None:
    over = released(with_batches(a=batch(lines=3)), "a", NOW)
    assert admitted(over, "a", batch(lines=3), team(max_enqueued_lines=3)) == over
    assert measured(over, "a", batch(lines=9), team(max_enqueued_lines=3)) == (over, None)


def test_a_larger_batch_waits_and_counts_for_newer_ones() -> None:
    bounds = team(max_enqueued_lines=10)
    record, shortage = measured(with_batches(a=batch(lines=6), b=batch(lines=1)), "b", batch(lines=8), bounds)
    assert shortage is not None
    assert not shortage.is_final
    assert record.batches["b"].waits
    assert "14 are enqueued" in refusal(record, batch(lines=1), bounds).message
    record, shortage = measured(released(record, "a", NOW), "b", batch(lines=8), bounds)
    assert (shortage, record.batches["b"].waits) == (None, False)


def test_of_two_that_wait_the_older_goes_first() -> None:
    bounds = team(max_enqueued_lines=10)
    record = with_batches(a=batch(lines=9), b=batch(lines=6, waits=True), c=batch(lines=6, waits=True))
    record = released(record, "a", NOW)
    assert measured(record, "c", batch(lines=6), bounds)[1] is not None
    record, shortage = measured(record, "b", batch(lines=6), bounds)
    assert shortage is None
    assert measured(record, "c", batch(lines=6), bounds)[1] is not None


def test_one_that_can_never_fit_is_known() -> None:
    _, shortage = measured(EnqueuedRecord(), "a", batch(lines=11), team(max_enqueued_lines=10))
    assert shortage is not None
    assert shortage.is_final


def test_what_was_refused_elsewhere_does_not_count_for_the_minute() -> None:
    record = admitted(EnqueuedRecord(), "a", batch(tokens=100), team(tpm_limit=100))
    assert forgotten(record, "a") == EnqueuedRecord()
    assert not released(record, "a", NOW).open()
    assert refusal(released(record, "a", NOW), batch(tokens=1), team(tpm_limit=100)).retry_after == 60


def test_an_audit_adds_what_is_missing_and_releases_what_is_over() -> None:
    record = audited(with_batches(a=batch(), b=batch(lines=5)), {"b": batch(lines=1), "c": batch()}, {"a"}, NOW)
    assert record == with_batches(b=batch(lines=5), c=batch())


class Counters(RuleBasedStateMachine):
    """Batches are admitted, planned, ended and lost in any order, each step once or twice."""

    BOUNDS = Bounds(team=Limits(max_enqueued_lines=100, max_batches=8), key=Limits(max_enqueued_tokens=300))
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.record = EnqueuedRecord()
        self.sizes: dict[str, Enqueued] = {}
        self.count = 0
        self.now = NOW

    @rule(target=batches, lines=st.integers(1, 120), tokens=st.integers(0, 400), twice=st.booleans())
    def create(self, lines: int, tokens: int, twice: bool) -> str:
        self.count += 1
        raw_id = f"b{self.count:04}"
        wanted = Enqueued(lines=lines, tokens=tokens, at=self.now, key="k")
        for _ in range(1 + twice):
            try:
                self.record = admitted(self.record, raw_id, wanted, self.BOUNDS)
            except TooManyRequests:
                assert raw_id not in self.sizes
            else:
                self.sizes[raw_id] = wanted
        return raw_id

    @rule(raw_id=batches, lines=st.integers(1, 120), tokens=st.integers(0, 400))
    def plan(self, raw_id: str, lines: int, tokens: int) -> None:
        if raw_id not in self.sizes:
            return
        exact = Enqueued(lines=lines, tokens=tokens, at=self.now, key="k")
        self.record, shortage = measured(self.record, raw_id, exact, self.BOUNDS)
        self.sizes[raw_id] = exact
        assert self.record.batches[raw_id].waits == isinstance(shortage, Shortage)

    @rule(raw_id=consumes(batches), twice=st.booleans())
    def end(self, raw_id: str, twice: bool) -> None:
        for _ in range(1 + twice):
            self.record = released(self.record, raw_id, self.now)
        self.sizes.pop(raw_id, None)

    @rule(raw_id=consumes(batches))
    def lose_the_release_and_audit(self, raw_id: str) -> None:
        self.sizes.pop(raw_id, None)
        self.record = audited(self.record, {}, {raw_id}, self.now)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_are_right(self) -> None:
        counted = {raw_id: (entry.lines, entry.tokens) for raw_id, entry in self.record.open().items()}
        assert counted == {raw_id: (entry.lines, entry.tokens) for raw_id, entry in self.sizes.items()}

    @invariant()
    def what_runs_fits(self) -> None:
        running = [entry for entry in self.record.open().values() if not entry.waits]
        assert sum(entry.lines for entry in running) <= 100
        assert sum(entry.tokens for entry in running) <= 300


TestCounters = Counters.TestCase
TestCounters.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100)), max_size=40))
def test_no_minute_has_more_tokens_than_its_limit(wishes: list[tuple[int, int]]) -> None:
    record, now, taken = EnqueuedRecord(), NOW, []
    for number, (pause, tokens) in enumerate(wishes):
        now += pause
        try:
            record = admitted(record, str(number), batch(tokens=tokens, at=now), team(tpm_limit=100))
        except TooManyRequests:
            continue
        record = released(record, str(number), now)
        taken.append((now, tokens))
    for end, _ in taken:
        assert sum(tokens for at, tokens in taken if end - 60 < at <= end) <= 100
