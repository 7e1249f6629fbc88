"""Where things lie in the object store.

files/<tenant>/<uuid>              the bytes of a file, claimed or not yet
batches/<tenant>/<batch>/…         what a running batch works with; removed when it has ended
"""

import re

from batchyard.common.subjects import decode_token, encode_token

FILES_PREFIX = "files/"
BATCHES_PREFIX = "batches/"

_FILE = re.compile(r"files/(?P<tenant>[A-Za-z0-9_=-]+)/(?P<uuid>[0-9a-f]{32})")

_BATCH = re.compile(r"batches/(?P<tenant>[A-Za-z0-9_=-]+)/(?P<batch>[A-Za-z0-9_=-]+)/")


def file_key(tenant: str, uuid_hex: str) -> str:
    """The key of the file whose raw ID is `file-<uuid_hex>`."""
    return f"{FILES_PREFIX}{encode_token(tenant)}/{uuid_hex}"


def parse_file_key(key: str) -> tuple[str, str]:
    """The tenant and the UUID in a file's key. Raises ValueError for any other key."""
    match = _FILE.fullmatch(key)
    if match is None:
        raise ValueError(f"not the key of a file: {key!r}")
    return decode_token(match["tenant"]), match["uuid"]


def parse_batch_key(key: str) -> tuple[str, str]:
    """The tenant and the raw ID of the batch that an object belongs to. Raises ValueError for any other key."""
    match = _BATCH.match(key)
    if match is None:
        raise ValueError(f"not the key of a batch's object: {key!r}")
    return decode_token(match["tenant"]), decode_token(match["batch"])


def batch_prefix(tenant: str, raw_batch_id: str) -> str:
    """The prefix of everything that belongs to one running batch."""
    return f"{BATCHES_PREFIX}{encode_token(tenant)}/{encode_token(raw_batch_id)}/"
