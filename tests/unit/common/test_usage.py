"""What a batch used of model servers."""

from batchyard.common.contracts.usage import MOST_WORK, Work, added_work


def test_a_batch_of_very_many_models_keeps_its_record_small() -> None:
    many = [Work(model=f"m{number}", deployment="d", completed=1, busy_microseconds=2) for number in range(500)]
    work = added_work(many[:300], many[300:], many)
    assert len(work) <= MOST_WORK + 1
    assert (sum(part.completed for part in work), sum(part.busy_microseconds for part in work)) == (1000, 2000)
    assert added_work(reversed(work)) == work
