"""What can go wrong with an object store.

ObjectStoreError
├── InvalidObjectKey
├── ObjectNotFound
├── ObjectTooLarge
└── ObjectStoreUnavailable

No message ever contains a credential.
"""

from __future__ import annotations


class ObjectStoreError(Exception):
    """The object store could not do what it was asked."""


class InvalidObjectKey(ObjectStoreError):
    """The key does not follow the rules of `keys.check_key`, or is a folder of other keys."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"invalid object key {key[:100]!r}: {reason}")
        self.key = key
        self.reason = reason


class ObjectNotFound(ObjectStoreError):
    """No object has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object has the key {key!r}")
        self.key = key


class ObjectTooLarge(ObjectStoreError):
    """The object has more bytes than the caller, or the store, allows."""

    def __init__(self, key: str, max_bytes: int) -> None:
        super().__init__(f"object {key!r} is larger than {max_bytes} bytes")
        self.key = key
        self.max_bytes = max_bytes


class ObjectStoreUnavailable(ObjectStoreError):
    """The store cannot be reached, is failing, is full, or refuses our credentials: try again later."""
