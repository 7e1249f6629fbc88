"""Cancelling: in each status, for the first time and once more for want of an answer."""

import pytest

from batchyard.batch_runner.transitions import cancel_requested
from batchyard.common.contracts.batches import BatchStatus, CancelBatch, CreateBatch
from batchyard.common.errors import Conflict

from .conftest import MODEL, Office, chat_line
from .records import new_record

CANCELLING, CANCELLED = BatchStatus.CANCELLING, BatchStatus.CANCELLED


@pytest.mark.parametrize(
    ("status", "first", "again"),
    [
        (BatchStatus.VALIDATING, CANCELLING, CANCELLING),
        (BatchStatus.IN_PROGRESS, CANCELLING, CANCELLING),
        (BatchStatus.FINALIZING, None, None),
        (BatchStatus.COMPLETED, None, None),
        (BatchStatus.FAILED, None, None),
        (BatchStatus.EXPIRED, None, None),
        (BatchStatus.CANCELLING, CANCELLING, CANCELLING),
        (BatchStatus.CANCELLED, None, CANCELLED),
    ],
)
def test_cancel_in_each_status(status: BatchStatus, first: BatchStatus | None, again: BatchStatus | None) -> None:
    """What a batch is after the request, or None where it is refused."""
    for is_again, expected in ((False, first), (True, again)):
        if expected is not None:
            changed = cancel_requested(new_record(status=status), 5, "output", "error", again=is_again)
            assert changed.status is expected
            assert changed == new_record(status=status) or changed.cancelling_at == 5
            continue
        with pytest.raises(Conflict) as caught:
            cancel_requested(new_record(status=status), 5, "output", "error", again=is_again)
        assert caught.value.message == f"Cannot cancel a batch with status '{status}'."


def test_every_status_is_in_the_table() -> None:
    table = test_cancel_in_each_status.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {row[0] for row in table} == set(BatchStatus)


async def test_a_cancel_asked_again_for_want_of_an_answer_is_answered(office: Office) -> None:
    file = await office.call.upload(chat_line("a", "hi"), model=MODEL)
    batch = await office.call(CreateBatch(input_file_id=file.id, endpoint="/v1/chat/completions"))
    assert (await office.call(CancelBatch(batch_id=batch.id))).status is CANCELLING
    ended = await office.call.ended(batch.id)
    assert ended.status is CANCELLED
    assert await office.call(CancelBatch(batch_id=batch.id, again=True)) == ended
    with pytest.raises(Conflict, match="'cancelled'"):
        await office.call(CancelBatch(batch_id=batch.id))
