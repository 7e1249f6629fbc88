"""Whether a deployment takes `priority`: the first request that has one tells.

vLLM schedules by it with `--scheduling-policy priority` alone. Without, its engine V0 refuses any but 0 with a 400; V1
takes every whole number and ignores it (https://github.com/vllm-project/vllm/issues/22997), which does no harm. So an
answer that is no refusal does not prove that anything comes of it, and that a deployment is sent one is a setting.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from batchyard.batch_runner.exchange import Answer

_BAD_REQUEST = 400


class Takes(Enum):
    """`ASKING`: a request with a priority is under way, and nobody knows yet."""

    UNKNOWN = "unknown"
    ASKING = "asking"
    YES = "yes"
    NO = "no"


class PriorityProbe:
    """What is known of one deployment. Until something is, one request at a time has a priority, the others none."""

    def __init__(self) -> None:
        self.takes = Takes.UNKNOWN

    @contextmanager
    def sending(self, wanted: int | None) -> Iterator[int | None]:
        """The time of a request; the priority to send it with, if any."""
        if wanted is None or self.takes in {Takes.NO, Takes.ASKING}:
            yield None
            return
        is_first = self.takes is Takes.UNKNOWN
        if is_first:
            self.takes = Takes.ASKING
        try:
            yield wanted
        finally:
            if is_first and self.takes is Takes.ASKING:  # it came to nothing that would tell
                self.takes = Takes.UNKNOWN

    def taken(self, answer: Answer) -> None:
        """A request with a priority was answered so, and not refused."""
        if self.takes is Takes.ASKING and 200 <= answer.status < 300:
            self.takes = Takes.YES


def may_be_refused(answer: Answer) -> bool:
    """Whether it may be the priority that the server refuses. Whether it is shows when it is sent without."""
    return answer.status == _BAD_REQUEST and b"priority" in answer.body.lower()
