"""What a request to a server comes to: an answer, or a reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Answer:
    """A complete HTTP answer. The names of `headers` are in lower case; of several of one name it has the first."""

    status: int
    body: bytes
    headers: Mapping[bytes, bytes] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """A header's value, if it has one."""
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")


class UpstreamError(Exception):
    """No answer; the message is for people and names no secret."""


class NotSent(UpstreamError):
    """The server could not be reached, so the request has had no effect."""


class TimedOut(UpstreamError):
    """The server took longer than it may."""


class Broken(UpstreamError):
    """The connection ended before the answer did, or what came is none."""


class TooLarge(UpstreamError):
    """The answer passed the size limit."""
