"""Where JSONL lives: one small port, a folder or an S3 server behind it."""

from batchyard.common.objects.errors import (
    InvalidObjectKey,
    ObjectNotFound,
    ObjectStoreError,
    ObjectStoreUnavailable,
    ObjectTooLarge,
)
from batchyard.common.objects.factory import open_object_store
from batchyard.common.objects.keys import check_key, check_prefix
from batchyard.common.objects.local import LocalObjectStore
from batchyard.common.objects.opening import open_objects
from batchyard.common.objects.port import ObjectInfo, ObjectStore
from batchyard.common.objects.streams import lines_of, read, read_lines

__all__ = [
    "InvalidObjectKey",
    "LocalObjectStore",
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectStore",
    "ObjectStoreError",
    "ObjectStoreUnavailable",
    "ObjectTooLarge",
    "check_key",
    "check_prefix",
    "lines_of",
    "open_object_store",
    "open_objects",
    "read",
    "read_lines",
]
