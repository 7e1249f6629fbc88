"""What a soak's clients have seen, for the check at the end. Times are Unix seconds of this machine's clock."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from soak.plan import PlannedBatch


class Refused(Exception):
    """An answer that trying again at once would not change: a 4xx, with OpenAI's error, after so many tries before."""

    def __init__(self, what: str, status: int, text: str, error: Any, retry_after: str | None, tries: int) -> None:
        super().__init__(f"{what}: {status} {text[:300]}")
        self.status = status
        self.retry_after = retry_after
        self.tries = tries
        self.code = error.get("code")
        self.message = str(error.get("message"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A batch that was not made: asked for at `sent`, refused at `answered`."""

    sent: float
    answered: float
    status: int
    code: str | None
    message: str
    retry_after: str | None


@dataclass
class Wish:
    """A batch that a team wants.

    Attributes:
        file_id: Its input, once that is uploaded.
        first_sent: When it was asked for first; None: not yet.
        sent: When the request that made it was sent first.
        answered: When a client was told of the batch.
        open_at: The last time at which the batch had certainly not ended: a look begun then found it at work.
        ended_seen: When a client was told that it is over.
        unanswered: Requests to make it that got no answer, or one that says nothing: they may have made it as well.
    """

    planned: PlannedBatch
    file_id: str | None = None
    first_sent: float | None = None
    sent: float | None = None
    answered: float | None = None
    batch_id: str | None = None
    open_at: float = 0.0
    ended_seen: float | None = None
    unanswered: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def may_be_open(self, begin: float, end: float) -> bool:
        """Whether it may have counted at some moment of an interval."""
        return self.first_sent is not None and self.first_sent <= end and (self.ended_seen or end) >= begin

    def is_open(self, begin: float, end: float) -> bool:
        """Whether it has certainly counted all the time."""
        return self.answered is not None and self.answered <= begin and self.open_at >= end


@dataclass(frozen=True, slots=True)
class Knock:
    """A request with a secret of which it matters when it works: `status` is None where nobody answered."""

    url: str
    sent: float
    answered: float
    status: int | None

    @property
    def is_let_in(self) -> bool:
        return self.status is not None and self.status < 300

    @property
    def is_refused(self) -> bool:
        return self.status == HTTPStatus.UNAUTHORIZED


@dataclass(frozen=True, slots=True)
class Deed:
    """What the administrator has done, and what it took."""

    what: str
    began: float
    over: float


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of webhooks, certainly subscribed since a time.

    Attributes:
        path: Where the receiver finds what is sent to it.
        team: Whose it is; None: the operator's, which hears of all.
    """

    path: str
    team: str | None
    secret: str
    since: float

    def hears(self, team: str) -> bool:
        return self.team is None or self.team == team


@dataclass
class Diary:
    """All of it.

    Attributes:
        wishes: By the number of their batch.
        deeds: In their order.
        endpoints: Those of webhooks that are to hear of everything from their making on.
        old: Knocks with the secret that was rotated; it works on until `old_ends`.
        new: Those with the one that took its place.
        revoked: Those with the secret that was revoked.
        intrusions: Requests for what is another team's.
        leaks: Those that found something.
        others_models: Refusals of a model that a team may not name, and what was not one.
    """

    wishes: dict[int, Wish] = field(default_factory=dict)
    deeds: list[Deed] = field(default_factory=list)
    endpoints: list[Endpoint] = field(default_factory=list)
    old: list[Knock] = field(default_factory=list)
    new: list[Knock] = field(default_factory=list)
    revoked: list[Knock] = field(default_factory=list)
    old_ends: float | None = None
    intrusions: int = 0
    leaks: list[str] = field(default_factory=list)
    denied_models: int = 0
    wrong_models: list[str] = field(default_factory=list)

    def deed(self, what: str) -> Deed | None:
        """When it was done, if it was."""
        return next((deed for deed in self.deeds if deed.what == what), None)

    def of(self, team: str) -> list[Wish]:
        return [wish for wish in self.wishes.values() if wish.planned.team == team]
