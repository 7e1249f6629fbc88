"""Where things lie in the object store.

files/<tenant>/<uuid>              the bytes of a file, claimed or not yet
uploads/<tenant>/<upload>/<part>   a part of an upload, both by their UUIDs; removed when the upload has ended
batches/<tenant>/<batch>/…         what a running batch works with; removed when it has ended
"""

import re

from batchyard.common.subjects import decode_token, encode_token

FILES_PREFIX = "files/"
UPLOADS_PREFIX = "uploads/"
BATCHES_PREFIX = "batches/"

_FILE = re.compile(r"files/(?P<tenant>[A-Za-z0-9_=-]+)/(?P<uuid>[0-9a-f]{32})")
_PART = re.compile(r"uploads/(?P<tenant>[A-Za-z0-9_=-]+)/(?P<upload>[0-9a-f]{32})/(?P<part>[0-9a-f]{32})")
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


def parts_prefix(tenant: str, upload_hex: str) -> str:
    """The prefix of the parts of the upload whose raw ID is `upload_<upload_hex>`."""
    return f"{UPLOADS_PREFIX}{encode_token(tenant)}/{upload_hex}/"


def part_key(tenant: str, upload_hex: str, part_hex: str) -> str:
    """The key of the part whose raw ID is `part_<part_hex>`."""
    return f"{parts_prefix(tenant, upload_hex)}{part_hex}"


def parse_part_key(key: str) -> tuple[str, str, str]:
    """The tenant and the UUIDs of upload and part in a part's key. Raises ValueError for any other key."""
    match = _PART.fullmatch(key)
    if match is None:
        raise ValueError(f"not the key of a part: {key!r}")
    return decode_token(match["tenant"]), match["upload"], match["part"]


def parse_batch_key(key: str) -> tuple[str, str]:
    """The tenant and the raw ID of the batch that an object belongs to. Raises ValueError for any other key."""
    match = _BATCH.match(key)
    if match is None:
        raise ValueError(f"not the key of a batch's object: {key!r}")
    return decode_token(match["tenant"]), decode_token(match["batch"])


def batch_prefix(tenant: str, raw_batch_id: str) -> str:
    """The prefix of everything that belongs to one running batch."""
    return f"{BATCHES_PREFIX}{encode_token(tenant)}/{encode_token(raw_batch_id)}/"
