"""Fault points: named places between two durable effects, where a test may let the process die.

They do nothing unless `BATCHYARD_CRASH_AT` names one, as `name:/path/of/a/marker`. The process then kills itself the
first time it passes the point: the marker file remembers it, so that the process that comes after lives on.
"""

import os
import signal
from pathlib import Path

VARIABLE = "BATCHYARD_CRASH_AT"

POINTS = (
    "file.stored",  # create file: bytes are there, the record is not
    "storage.claimed",  # create file: room is taken for it in the team's quota, the record is not there
    "file.recorded",  # create file: the record is there, the reply is not
    "file.removed",  # delete file: the record is gone, the bytes are not, nor is it told
    "part.counted",  # add part: the upload has counted the part, the part is not recorded
    "part.recorded",  # add part: the part is recorded, the reply is not
    "upload.joined",  # complete upload: the parts are joined, the upload is still pending
    "upload.completed",  # complete upload: the upload is completed, its file is not recorded
    "parts.removed",  # after an upload's end: the bytes of its parts are gone, their records are not
    "batch.claimed",  # create batch: it is known which batch the wish stands for, the batch is not there
    "limits.counted",  # create batch: room is taken for it, its budget is not reserved
    "limits.reserved",  # create batch: its budget is reserved, the batch is not there
    "batch.recorded",  # create batch: the record is there, its first step is not queued
    "input.pinned",  # plan: the input is copied
    "table.written",  # plan: the shard table is written, the record does not name it
    "batch.planned",  # plan: the record is in progress, nothing is dispatched
    "shards.marked",  # dispatch: the record says that shards are queued, the queue does not hold them
    "shard.queued",  # dispatch: the first of several shards is queued
    "segment.stored",  # run: a checkpoint is stored, its progress is not told
    "parts.written",  # run: the parts are written, the outcome is not handed in
    "native.uploaded",  # run natively: the server has the input, the record does not name it
    "native.input_noted",  # run natively: the record names the server's file, there is no batch over it
    "native.created",  # run natively: the server has the batch, the record does not name it
    "native.batch_noted",  # run natively: the record names the server's batch
    "native.collected",  # run natively: the server's results are copied, the parts are not written
    "native.cleaned",  # sweep: the server has nothing left of the batch, the sweep goes on
    "outcome.handed_in",  # run: the outcome is there, nobody has been told
    "outcome.told",  # run: the step is queued, the shard's message is not acknowledged
    "outcomes.counted",  # count: the record holds the outcomes
    "batch.finalizing",  # finalize: the record is finalizing, no file is written
    "output.joined",  # finalize: the output's bytes are joined, the file is not registered
    "files.registered",  # finalize: the files are registered, the record does not name them
    "limits.released",  # end: the batch counts no more, its record has not ended
    "batch.ended",  # end: the record has ended, the event is not published
    "event.published",  # end: the event is published, the record does not know
    "objects.removed",  # sweep: the working objects are gone, outcomes are not
    "batch.cancelling",  # cancel: the record is cancelling, no runner has been told
    "shard.abandoned",  # cancel: the first of several abandoned shards is settled
    "key.written",  # generate: the key is there, its secret is not told
    "key.rotated",  # regenerate: the old secret is about to end, the new one is not told
    "webhook.endpoint_written",  # new endpoint: it is there, its secret is not told
    "webhook.queued",  # webhooks: one of an event's deliveries is queued
    "webhook.event_queued",  # webhooks: all are queued, the event is not acknowledged
    "webhook.answered",  # webhooks: the endpoint has answered, the delivery is not acknowledged
    "rebuild.added",  # rebuild: the entries of one batch that were missing are added
    "rebuild.corrected",  # rebuild: one entry that came out otherwise is corrected
    "entry.committed",  # bill: the entry is in the ledger, the event is not acknowledged
)


def crash_point(name: str) -> None:
    """Die here if the environment says so, as by `kill -9`."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    point, _, marker = wanted.partition(":")
    if point != name:
        return
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
