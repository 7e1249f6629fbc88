"""The object store as the services see it: bytes under keys, published whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object without reading it.

    `size` is in bytes. `etag` is opaque, and differs when the content was replaced. `modified_at` is in UTC;
    `put` and `concatenate` may report it about a second away from what `stat` and `list` say.
    """

    key: str
    size: int
    etag: str
    modified_at: datetime


class ObjectStore(Protocol):
    """Objects under keys (see `keys.check_key`), on a disk or on an S3 server.

    Every method raises `InvalidObjectKey` for a key that breaks the rules, and `ObjectStoreUnavailable` when
    the store is away, failing, full, or refuses the credentials. Memory is bounded by the adapter's settings,
    never by the size or the number of objects.
    """

    async def put(self, key: str, data: AsyncIterable[bytes] | bytes, *, max_bytes: int | None = None) -> ObjectInfo:
        """Store bytes of unknown length under a key, replacing what was there.

        Readers see the former object, or none, until the last byte is stored; then the new one. If the source
        or the store fails, or the call is cancelled before the source has ended, nothing is published and
        nothing is left behind. A cancel or a lost connection during the publishing step itself, after the
        source has ended, leaves either the former object or the new one, whole. The source is always either
        read to its end or closed, and its own errors pass through unchanged.

        Args:
            key: Where the object is to be found.
            data: The bytes, in chunks of any size; empty chunks are fine.
            max_bytes: The largest size allowed, in bytes.

        Raises:
            ObjectTooLarge: as soon as the source has passed `max_bytes`, or what the store can hold.
        """
        ...

    async def put_url(self, key: str, seconds: float) -> str | None:
        """A URL under which whoever has it may PUT the object, in one request, until `seconds` have passed.

        It replaces the object each time, and names no credential. None where the store has no such URLs: a folder.

        Raises:
            ValueError: not between one second and seven days.
        """
        ...

    async def get_url(self, key: str, seconds: float) -> str | None:
        """A URL under which whoever has it may GET the object, until `seconds` have passed. None as with `put_url`.

        Raises:
            ValueError: not between one second and seven days.
        """
        ...

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Stream the bytes `start` to `start + length` of an object in chunks of at most 1 MiB.

        A range that begins beyond the end yields nothing; one that passes the end stops there. Whoever may
        stop early closes the generator (`contextlib.aclosing`), which frees its connection or file.

        Args:
            key: Which object.
            start: Offset of the first byte, from 0.
            length: Number of bytes; all to the end if None.

        Raises:
            ObjectNotFound: at the first step.
            ValueError: at the first step, for a negative `start` or `length`.
        """
        ...

    async def stat(self, key: str) -> ObjectInfo:
        """Describe one object.

        Raises:
            ObjectNotFound: no object has the key.
        """
        ...

    def list(self, prefix: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """Describe the objects whose key begins with a text, in the order of their keys' bytes.

        The prefix is one of the string, not a folder: `a/b` finds `a/b`, `a/b/c` and `a/bc`. Objects put or
        deleted meanwhile may or may not appear. SeaweedFS deviates from S3's order where one folder's name
        continues another's with `-` or `.`: it lists all of `a/` before `a-b/`.
        """
        ...

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, in batches where the store has them. Keys without an object are fine."""
        ...

    async def concatenate(self, key: str, sources: Sequence[str]) -> ObjectInfo:
        """Publish under `key` the bytes of the sources, in order, with the guarantees of `put`.

        The sources stay, and must not be replaced meanwhile. No sources, or only empty ones, make an empty
        object; a source may appear twice, and `key` may be among them.

        Raises:
            ObjectNotFound: a source does not exist; its key is the error's.
            ObjectTooLarge: the result is larger than the store can hold.
        """
        ...

    async def check(self) -> None:
        """Make the store ready at start (folder, bucket if so configured), later check that it can be written.

        Raises:
            ObjectStoreUnavailable: with the reason.
        """
        ...

    async def close(self) -> None:
        """Free threads and connections, after the running calls have ended. May be called twice."""
        ...
