"""What others are shown of a batch."""

from batchyard.batch_runner import transitions
from batchyard.batch_runner.batch_views import to_batch, to_event
from batchyard.common.contracts.batches import BatchStatus, RequestCounts

from .records import RAW_ID, USAGE, in_progress, outcome


def test_an_event_says_when_its_status_was_reached() -> None:
    event = to_event(in_progress(), BatchStatus.IN_PROGRESS)
    assert (event.id, event.occurred_at, event.tenant) == (f"{RAW_ID}.in_progress", 1001, "t")


def test_a_batch_shows_what_its_running_shards_have_done() -> None:
    batch = to_batch(transitions.settled(in_progress(), outcome(0)), RequestCounts(completed=4, failed=1), USAGE)
    assert batch.request_counts == RequestCounts(total=30, completed=13, failed=2)
    assert batch.usage == USAGE + USAGE
