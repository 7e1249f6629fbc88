"""The life of a batch, as transitions from record to record."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch import BatchRecord, Ending
from batchyard.batch_runner.batch_views import to_batch
from batchyard.batch_runner.native_note import NativeNote
from batchyard.batch_runner.transitions import IllegalTransition
from batchyard.common.contracts.batches import BatchProblem, BatchStatus, RequestCounts
from batchyard.common.contracts.usage import Usage
from batchyard.common.errors import Conflict

from .records import USAGE, in_progress, new_record, outcome


def test_a_sound_input_puts_the_batch_in_progress() -> None:
    record = in_progress()
    assert (record.status, record.in_progress_at, record.lines) == (BatchStatus.IN_PROGRESS, 1001, 30)


def test_a_bad_input_fails_the_batch_with_its_problems() -> None:
    problem = BatchProblem(code="invalid_json_line", message="no", line=7)
    batch = to_batch(transitions.rejected(new_record(), 1002, (problem,)))
    assert (batch.status, batch.failed_at) == (BatchStatus.FAILED, 1002)
    assert batch.errors is not None
    assert batch.errors.data == [problem]
    assert batch.request_counts == RequestCounts()


def test_a_batch_is_answered_when_no_line_was_left_out() -> None:
    record = in_progress(shards=1, dispatched=1)
    assert transitions.settled(record, outcome(0)).is_answered
    left = outcome(0).model_copy(update={"completed": 8, "not_run": 1})
    assert not transitions.settled(record, left).is_answered


def test_a_batch_that_its_server_refuses_fails_as_if_its_input_had_not_been_sound() -> None:
    problem = BatchProblem(code="invalid_request", message="no", line=7)
    batch = to_batch(transitions.refused(in_progress(), 1005, (problem,)))
    assert (batch.status, batch.failed_at, batch.request_counts.total) == (BatchStatus.FAILED, 1005, 0)
    with pytest.raises(IllegalTransition):
        transitions.refused(new_record(status=BatchStatus.CANCELLING), 1005, (problem,))


def test_notes_are_taken_until_the_batch_is_over() -> None:
    record = in_progress().model_copy(update={"native": NativeNote(deployment="d")})
    noted = transitions.noted(record, NativeNote.uploading)
    assert noted.native == NativeNote(deployment="d", uploads=1)
    with pytest.raises(IllegalTransition):
        transitions.noted(noted.model_copy(update={"status": BatchStatus.CANCELLED}), NativeNote.uploading)


def test_a_shard_counts_once_however_often_it_is_handed_in() -> None:
    once = transitions.settled(in_progress(), outcome(1))
    assert transitions.settled(once, outcome(1)) == once
    assert (once.completed, once.failed, once.usage) == (9, 1, USAGE)


def test_outstanding_shards_are_those_queued_and_not_settled() -> None:
    record = in_progress(shards=6, dispatched=5)
    for shard in (0, 2, 3):
        record = transitions.settled(record, outcome(shard))
    assert list(record.outstanding()) == [1, 4]
    assert record.settled_count == 3


@given(st.sets(st.integers(0, 40)))
def test_settled_ranges_hold_exactly_the_settled_shards(shards: set[int]) -> None:
    record = in_progress(shards=41, dispatched=41)
    for shard in shards:
        record = transitions.settled(record, outcome(shard))
    assert {shard for shard in range(41) if record.is_settled(shard)} == shards
    assert record.settled_count == len(shards)
    assert set(record.outstanding()) == set(range(41)) - shards


def test_shards_that_are_passed_over_stay_to_be_queued() -> None:
    record = in_progress(shards=9, dispatched=2)
    assert transitions.dispatched(record, [0]) == record
    record = transitions.dispatched(record, [4, 5])
    assert (list(record.outstanding()), list(record.unqueued())) == ([0, 1, 4, 5], [2, 3, 6, 7, 8])
    record = transitions.dispatched(transitions.settled(record, outcome(4)), [2, 6])
    assert (list(record.outstanding()), list(record.unqueued())) == ([0, 1, 2, 5, 6], [3, 7, 8])


@given(st.lists(st.sets(st.integers(0, 20)), max_size=6), st.sets(st.integers(0, 20)))
def test_a_shard_is_queued_or_not_whatever_the_order(dispatches: list[set[int]], done: set[int]) -> None:
    record, queued = in_progress(shards=21, dispatched=0), set[int]().union(*dispatches)
    for shards in dispatches:
        record = transitions.dispatched(record, shards)
    for shard in done & queued:
        record = transitions.settled(record, outcome(shard))
    assert {shard for shard in range(21) if record.is_queued(shard)} == queued
    assert list(record.outstanding()) == sorted(queued - done)
    assert list(record.unqueued()) == sorted(set(range(21)) - queued)


@pytest.mark.parametrize("ending", [BatchStatus.COMPLETED, BatchStatus.EXPIRED])
def test_finalizing_ends_as_it_was_begun(ending: Ending) -> None:
    record = transitions.finalizing(in_progress(), 1003, ending, "a" * 32, "b" * 32)
    assert record.status is BatchStatus.FINALIZING
    ended = transitions.finished(record, 1004, "file-o", None)
    assert ended.status is ending
    assert getattr(ended, f"{ending}_at") == 1004
    assert (ended.output_file_id, ended.error_file_id) == ("file-o", None)


@pytest.mark.parametrize("record", [new_record(), in_progress()], ids=["validating", "in_progress"])
def test_cancel_is_taken_while_the_batch_has_work_left(record: BatchRecord) -> None:
    cancelling = transitions.cancel_requested(record, 1003, "a" * 32, "b" * 32)
    assert (cancelling.status, cancelling.cancelling_at) == (BatchStatus.CANCELLING, 1003)
    assert transitions.cancel_requested(cancelling, 1009, "c" * 32, "d" * 32) == cancelling
    assert transitions.finished(cancelling, 1005, None, None).cancelled_at == 1005


def test_cancel_of_an_ended_batch_is_a_conflict() -> None:
    record = transitions.finalizing(in_progress(), 1003, BatchStatus.COMPLETED, "a" * 32, "b" * 32)
    ended = transitions.finished(record, 1004, None, None)
    with pytest.raises(Conflict, match="Cannot cancel a batch with status 'completed'."):
        transitions.cancel_requested(ended, 1005, "a" * 32, "b" * 32)


def test_each_status_is_announced_once() -> None:
    record = in_progress()
    assert record.outbox == (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
    record = transitions.announced(record, BatchStatus.VALIDATING)
    assert transitions.announced(record, BatchStatus.VALIDATING).outbox == (BatchStatus.IN_PROGRESS,)


class Life(RuleBasedStateMachine):
    """Steps, cancels, deadlines and late outcomes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.record = new_record()
        self.counted: set[int] = set()
        self.history: list[BatchStatus] = [self.record.status]
        self.now = 1000

    def apply(self, record: BatchRecord) -> None:
        if record.status is not self.record.status:
            self.history.append(record.status)
        self.record = record

    def attempt(self, transition: object, *args: object, **kwargs: object) -> None:
        self.now += 1
        with suppress(IllegalTransition, Conflict):
            self.apply(transition(self.record, *args, **kwargs))  # type: ignore[operator]

    @rule(shards=st.integers(1, 5))
    def plan(self, shards: int) -> None:
        self.attempt(
            transitions.planned, self.now, pool="m", model="m", input_key="i", plan_key="p", lines=10, shards=shards
        )

    @rule()
    def reject(self) -> None:
        self.attempt(transitions.rejected, self.now, (BatchProblem(code="x", message="x"),))

    @rule(up_to=st.integers(0, 6))
    def dispatch(self, up_to: int) -> None:
        self.attempt(transitions.dispatched, range(min(up_to, self.record.shards)))

    @precondition(lambda self: self.record.dispatched > 0)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        shard = data.draw(st.integers(0, self.record.dispatched - 1))
        if not self.record.status.is_terminal:
            self.counted.add(shard)
        self.attempt(transitions.settled, outcome(shard))

    @rule(ending=st.sampled_from([BatchStatus.COMPLETED, BatchStatus.EXPIRED]))
    def finalize(self, ending: Ending) -> None:
        if ending is BatchStatus.COMPLETED and self.record.settled_count < self.record.shards:
            return
        self.attempt(transitions.finalizing, self.now, ending, "a" * 32, "b" * 32)

    @rule()
    def cancel(self) -> None:
        self.attempt(transitions.cancel_requested, self.now, "c" * 32, "d" * 32)

    @rule()
    def finish(self) -> None:
        self.attempt(transitions.finished, self.now, None, None)

    @invariant()
    def counts_are_those_of_the_shards_settled(self) -> None:
        assert self.record.completed == 9 * len(self.counted)
        assert self.record.usage_by_deployment.get("d", Usage()).total_tokens == 15 * len(self.counted)
        assert sum(work.busy_microseconds for work in self.record.work) == 250 * len(self.counted)
        assert sum(work.completed for work in self.record.work) == self.record.completed

    @invariant()
    def nothing_leaves_a_terminal_status(self) -> None:
        assert not any(status.is_terminal for status in self.history[:-1])

    @invariant()
    def every_status_is_reached_at_most_once_and_announced(self) -> None:
        assert len(set(self.history)) == len(self.history)
        assert set(self.record.outbox) == set(self.history)

    @invariant()
    def a_cancelled_batch_was_cancelling_and_an_expired_one_finalizing(self) -> None:
        if BatchStatus.CANCELLED in self.history:
            assert BatchStatus.CANCELLING in self.history
        if {BatchStatus.EXPIRED, BatchStatus.COMPLETED} & set(self.history):
            assert BatchStatus.FINALIZING in self.history


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=30)


def test_a_record_from_before_there_was_work_is_read() -> None:
    record = transitions.settled(in_progress(), outcome(0))
    document = record.model_dump(exclude={"work", "key_id"})
    assert BatchRecord.model_validate(document) == record.model_copy(update={"work": ()})
