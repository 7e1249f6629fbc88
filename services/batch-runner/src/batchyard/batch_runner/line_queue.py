"""The lines of a shard that wait to be sent, each near the deployment that should get it."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from batchyard.batch_runner.attempt import LineJob
from batchyard.batch_runner.prefixes import arrangement
from batchyard.common.config import Deployment


class LineQueue:
    """Hands out each line once, in the order of sending.

    First comes a place on some deployment, then the line for it: so a pool is used to its limits whatever the lines
    are. A deployment gets the lines that begin like those it has had, then those that may go anywhere, and last, from
    the other end, those that are meant for another one.

    With `deployments`, those that are up, lines that begin alike have one of them as their home.
    """

    def __init__(
        self, jobs: Sequence[LineJob], deployments: Sequence[Deployment] = (), *, arrange: bool = True
    ) -> None:
        self._unreserved = len(jobs)
        self._anywhere: deque[LineJob] = deque()
        self._homes: dict[str, deque[LineJob]] = {}
        arranged = arrangement(jobs[0].path, [job.request.body for job in jobs]) if jobs and arrange else None
        if arranged is None:
            self._anywhere.extend(jobs)
            return
        sizes = Counter(arranged.groups)
        fair_share = len(jobs) / len(deployments) if len(deployments) > 1 else 0.0
        for index in arranged.order:
            group = arranged.groups[index]
            # A group of more lines than a deployment's fair share keeps all of them busy: each has its beginning soon.
            if group is None or sizes[group] > fair_share:
                self._anywhere.append(jobs[index])
            else:
                self._homes.setdefault(home(group, deployments), deque()).append(jobs[index])

    @property
    def has_more(self) -> bool:
        """Whether there are lines that are not set aside for anybody."""
        return self._unreserved > 0

    def reserve(self) -> bool:
        """Set a line aside for whoever now waits for a place; False when there is none left."""
        if not self._unreserved:
            return False
        self._unreserved -= 1
        return True

    def take(self, deployment: str) -> LineJob:
        """The line for one set aside, now that its place is on the deployment with this ID."""
        if own := self._homes.get(deployment):
            return own.popleft()
        if self._anywhere:
            return self._anywhere.popleft()
        return max(self._homes.values(), key=len).pop()


def home(group: bytes, deployments: Sequence[Deployment]) -> str:
    """The deployment for the lines of a group, the same for every runner and shard.

    When a deployment comes or goes, only its own groups move: rendezvous hashing, by weight (Thaler and Ravishankar
    1998, Schindelhauer and Schomaker 2005).
    """
    return max(deployments, key=lambda one: one.weight * _score(group, one.id)).id


@lru_cache(maxsize=65536)
def _score(group: bytes, deployment: str) -> float:
    digest = blake2b(deployment.encode(), key=group, digest_size=6).digest()
    return -1 / math.log((int.from_bytes(digest) + 1) / (2**48 + 1))
