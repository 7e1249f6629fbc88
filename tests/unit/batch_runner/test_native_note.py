"""What is kept of a batch that a server runs as one of its own."""

from batchyard.batch_runner.native_note import NativeNote


def test_what_is_noted_first_stays() -> None:
    note = NativeNote(deployment="d").uploading().uploading().with_file("f1", 7).with_file("f2", 8).with_batch("b1")
    assert note == NativeNote(deployment="d", uploads=2, file_id="f1", file_created_at=7, batch_id="b1")
    assert note.uploading().with_batch("b2") == note
