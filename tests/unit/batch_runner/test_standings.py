"""What the records tell of the batches in progress."""

from typing import Any, cast

from batchyard.batch_runner.batch import BatchRecord
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.standings import Standings
from batchyard.common.clock import SystemClock
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.messaging.records import Entry

from .records import new_record


def entry(name: str, revision: int = 1, **changes: Any) -> Entry[BatchRecord]:
    running = {"status": BatchStatus.IN_PROGRESS, "pool": "m", "shards": 10}
    record = new_record(raw_id=name, **{**running, **changes})
    return Entry(record.key, record, revision)


def standings(runners: int = 1) -> Standings:
    nats = cast("Any", None)  # it is not asked
    return Standings(nats, RunnerSettings(shards_per_pool=16), SystemClock(), lambda: runners)


def test_what_is_not_queued_yet_is_counted_by_pool() -> None:
    found = standings()
    found.note(entry("a", dispatched=4))
    found.note(entry("b", pool="n"))
    found.note(entry("mixed", pool=None))
    assert found.undispatched() == {"m": 6, "n": 10}


def test_a_batch_that_has_ended_or_is_gone_counts_no_more() -> None:
    found = standings()
    ended, gone = entry("a"), entry("b")
    found.note(ended)
    found.note(gone)
    found.note(entry("a", 2, status=BatchStatus.FINALIZING))
    found.note(gone.key)
    assert found.undispatched().total() == 0


def test_what_other_batches_have_queued_leaves_less() -> None:
    found = standings()
    assert found.may_queue(entry("b").value) == 7
    found.note(entry("a", dispatched=10, settled=((0, 2),)))
    assert found.may_queue(entry("b").value) == 3
    found.note(entry("c", dispatched=10))
    assert found.may_queue(entry("b").value) == 0


def test_each_runner_takes_as_many() -> None:
    assert standings(runners=4).may_queue(entry("b").value) == 28


def test_batches_of_several_models_are_left_to_their_windows() -> None:
    assert standings().may_queue(entry("b", pool=None).value) == 10


def test_records_that_are_not_told_again_are_forgotten() -> None:
    found = standings()
    found.note(entry("kept"))
    found.note(entry("lost"))
    for _ in range(2):
        found.renew()
        found.note(entry("kept"))
    assert found.undispatched() == {"m": 10}
