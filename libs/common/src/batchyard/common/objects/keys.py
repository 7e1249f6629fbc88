"""The rules of object keys: the ones under which every adapter behaves the same."""

from __future__ import annotations

import re

from batchyard.common.objects.errors import InvalidObjectKey

MAX_SEGMENT_BYTES = 200
MAX_KEY_BYTES = 900

_SEGMENT = re.compile(r"[A-Za-z0-9._=-]+")
_DOTS = frozenset({".", ".."})


def check_key(key: str) -> None:
    """Check that a key is slash-separated segments of `[A-Za-z0-9._=-]+`, none of them `.` or `..`.

    A segment has at most 200 bytes, the key at most 900: a file name and a path of any file system hold
    them, and so does any S3 server. A key must also not be a folder of another key (`a` beside `a/b`):
    file systems and MinIO refuse that, so callers must not rely on it.

    Raises:
        InvalidObjectKey: the key breaks a rule.
    """
    if len(key) > MAX_KEY_BYTES:
        raise InvalidObjectKey(key, f"longer than {MAX_KEY_BYTES} bytes")
    for segment in key.split("/"):
        _check_segment(key, segment)


def check_prefix(prefix: str) -> None:
    """Check that a key could begin with this text. The empty prefix is one that every key has.

    Raises:
        InvalidObjectKey: no valid key begins so.
    """
    if len(prefix) > MAX_KEY_BYTES:
        raise InvalidObjectKey(prefix, f"longer than {MAX_KEY_BYTES} bytes")
    *folders, beginning = prefix.split("/")
    for segment in folders:
        _check_segment(prefix, segment)
    if beginning and beginning not in _DOTS:
        _check_segment(prefix, beginning)


def _check_segment(key: str, segment: str) -> None:
    if not segment:
        raise InvalidObjectKey(key, "empty segment")
    if segment in _DOTS:
        raise InvalidObjectKey(key, f"segment {segment!r}")
    if not _SEGMENT.fullmatch(segment):
        raise InvalidObjectKey(key, "only letters, digits, '.', '_', '=', '-' and '/' are allowed")
    if len(segment) > MAX_SEGMENT_BYTES:
        raise InvalidObjectKey(key, f"segment longer than {MAX_SEGMENT_BYTES} bytes")
