"""The S3 calls of the MinIO store: the blocking half, bytes in and values out.

`minio` itself only offers uploads that pull from a blocking stream, which would hold a thread for as long as the
slowest sender takes. So we make the calls of a multipart upload one by one, as its own `put_object` does.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import structlog
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject
from minio.error import S3Error, ServerError
from minio.helpers import check_bucket_name
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, LifecycleConfig, Rule
from pydantic import SecretStr

from batchyard.common.objects.errors import ObjectStoreUnavailable
from batchyard.common.objects.minio_errors import MISSING
from batchyard.common.objects.parts import MIN_PART_BYTES
from batchyard.common.objects.port import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from minio.datatypes import Object
    from minio.helpers import DictType
    from urllib3 import BaseHTTPResponse

    from batchyard.common.objects.parts import Piece

_log = structlog.get_logger(__name__)
_ABANDONED_DAYS = 1
_MIN_URL_SECONDS, _MAX_URL_SECONDS = 1, 7 * 86_400


class Addressing(StrEnum):
    """Where a request names the bucket: in its path, or as the first part of the host's name."""

    AUTO = "auto"
    """By host at AWS, by path everywhere else."""
    PATH = "path"
    VIRTUAL = "virtual"


@dataclass(frozen=True, slots=True)
class MinioConfig:
    """Where an S3 server is, and how much of it and of us to use. Times are in seconds, sizes in bytes.

    `public_endpoint` is the address in URLs that are given away, which nobody here talks to; None: the same.
    """

    endpoint: str
    bucket: str
    access_key: str
    secret_key: SecretStr = field(repr=False)
    public_endpoint: str | None = None
    region: str = "us-east-1"
    ca_file: Path | None = None
    addressing: Addressing = Addressing.AUTO
    create_bucket: bool = False
    part_bytes: int = 8 * 1024 * 1024
    parallel_parts: int = 2
    threads: int = 16
    max_streams: int = 128
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        for endpoint in filter(None, (self.endpoint, self.public_endpoint)):
            url = urlsplit(endpoint)
            if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/") or url.query:
                raise ValueError("the endpoint of an S3 server is http(s)://host[:port]")
            if url.username or url.password:
                raise ValueError("credentials of an S3 server do not belong in its endpoint")
        check_bucket_name(self.bucket, strict=True)
        if self.part_bytes < MIN_PART_BYTES:
            raise ValueError(f"part_bytes must be at least {MIN_PART_BYTES}")


class S3Client(Minio):
    """One bucket of an S3 server. Every method blocks, and raises one of `minio_errors.FAILURES`."""

    def __init__(self, config: MinioConfig) -> None:
        url = urlsplit(config.endpoint)
        super().__init__(
            url.netloc,
            access_key=config.access_key,
            secret_key=config.secret_key.get_secret_value(),
            secure=url.scheme == "https",
            region=config.region,
            http_client=_connections(config),
        )
        self.bucket = config.bucket
        match config.addressing:
            case Addressing.VIRTUAL:
                self.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
            case Addressing.PATH:
                self.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Store a whole object in one request."""
        result = self._put_object(self.bucket, key, data, {"Content-Type": "application/octet-stream"})
        return ObjectInfo(key, len(data), result.etag or "", _served_at(result.http_headers))

    def put_url(self, key: str, seconds: float) -> str:
        """Sign a URL under which anyone may PUT this object for so long. Nothing is sent.

        Raises:
            ValueError: S3 knows no such time.
        """
        return self.presigned_put_object(self.bucket, key, _lifetime(seconds))

    def get_url(self, key: str, seconds: float) -> str:
        """Sign a URL under which anyone may GET this object for so long. Nothing is sent.

        Raises:
            ValueError: S3 knows no such time.
        """
        return self.presigned_get_object(self.bucket, key, _lifetime(seconds))

    def begin(self, key: str) -> str:
        """Begin a multipart upload, and return its ID."""
        return self._create_multipart_upload(self.bucket, key, {})

    def send_part(self, key: str, upload: str, number: int, data: bytes) -> str:
        """Send a part, counted from 1, and return its etag."""
        return self._upload_part(self.bucket, key, data, None, upload, number)

    def copy_part(self, key: str, upload: str, number: int, piece: Piece) -> str:
        """Have the server copy a part out of another object, and return its etag."""
        headers: DictType = {
            "x-amz-copy-source": quote(f"/{self.bucket}/{piece.key}"),
            "x-amz-copy-source-range": f"bytes={piece.start}-{piece.start + piece.length - 1}",
        }
        try:
            etag, _ = self._upload_part_copy(self.bucket, key, upload, number, headers)
        except ValueError as error:  # S3 may answer 200 and fail in the body, which then has no etag
            raise ServerError("copying a part failed", 500) from error
        return etag

    def complete(self, key: str, upload: str, etags: Mapping[int, str], size: int) -> ObjectInfo:
        """Publish the parts of an upload."""
        parts = [Part(number, etags[number]) for number in sorted(etags)]
        result = self._complete_multipart_upload(self.bucket, key, upload, parts)
        if not result.etag:  # as above
            raise ServerError("completing an upload failed", 500)
        return ObjectInfo(key, size, result.etag, _served_at(result.http_headers))

    def abort(self, key: str, upload: str) -> None:
        """Drop a multipart upload and its parts; one that is gone already is fine."""
        try:
            self._abort_multipart_upload(self.bucket, key, upload)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise

    def open(self, key: str, start: int, length: int | None) -> BaseHTTPResponse | None:
        """Begin to read a range of an object; None if it begins beyond the end."""
        try:
            return self.get_object(self.bucket, key, offset=start, length=length or 0)
        except S3Error as error:
            if error.code == "InvalidRange":
                return None
            raise

    def read_piece(self, piece: Piece) -> bytes:
        """Read a range into memory."""
        response = self.open(piece.key, piece.start, piece.length)
        if response is None:
            return b""
        try:
            return response.read(decode_content=False)
        finally:
            response.close()
            response.release_conn()

    def describe(self, key: str) -> ObjectInfo:
        """Ask for an object's size, etag and time."""
        return described(self.stat_object(self.bucket, key))

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """List a prefix, lazily, a page of 1,000 a request."""
        for found in self.list_objects(self.bucket, prefix, recursive=True):
            if not found.is_dir:
                yield described(found)

    def remove(self, keys: Iterable[str]) -> None:
        """Delete at most 1,000 objects in one request."""
        for error in self.remove_objects(self.bucket, [DeleteObject(key) for key in keys]):
            if error.code not in MISSING:
                raise ServerError(f"deleting failed: {error.code}", 500)

    def probe(self, *, create_bucket: bool) -> None:
        """See whether the bucket is there (make it if so asked) and can be written.

        By an upload that is dropped: to ask for the bucket itself takes another permission.
        """
        key = ".check/write"
        try:
            self.abort(key, self.begin(key))
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise
            if not create_bucket:
                remedy = "make it, or add create_bucket=true to BATCHYARD_OBJECT_STORE"
                raise ObjectStoreUnavailable(f"bucket {self.bucket!r} does not exist: {remedy}") from error
            self._make_bucket()
            self.abort(key, self.begin(key))

    def close(self) -> None:
        """Close the idle connections."""
        self._http.clear()

    def _make_bucket(self) -> None:
        try:
            self.make_bucket(self.bucket)
        except S3Error as error:
            if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:  # by another process
                raise
        else:
            self._drop_abandoned_uploads()

    def _drop_abandoned_uploads(self) -> None:
        """Have the server drop what is left of uploads whose process has died."""
        rule = Rule(
            ENABLED,
            rule_filter=Filter(prefix=""),
            rule_id="abandoned-uploads",
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(_ABANDONED_DAYS),
        )
        try:
            self.set_bucket_lifecycle(self.bucket, LifecycleConfig([rule]))
        except (S3Error, ServerError) as error:  # MinIO does it unasked, and does not know the rule
            _log.info("objects.no_lifecycle_rule", bucket=self.bucket, error=str(getattr(error, "code", error)))


def described(found: Object) -> ObjectInfo:
    """Turn what S3 says of an object into ours."""
    modified_at = found.last_modified or datetime.fromtimestamp(0, UTC)
    etag = (found.etag or "").strip('"')
    return ObjectInfo(found.object_name or "", found.size or 0, etag, modified_at.astimezone(UTC))


def _connections(config: MinioConfig) -> urllib3.PoolManager:
    """Build the connection pool: a connection for every thread and every open stream, none beyond."""
    retries = urllib3.Retry(
        config.retries,
        backoff_factor=0.2,
        backoff_jitter=0.1,
        status_forcelist=(500, 502, 503, 504),
        raise_on_status=False,
        allowed_methods=None,  # POST too: to begin, delete or complete twice does no harm
        retry_after_max=5,
    )
    secure = config.endpoint.startswith("https:")
    return urllib3.PoolManager(
        num_pools=1,
        maxsize=config.threads + config.max_streams,
        block=True,
        timeout=urllib3.Timeout(connect=config.connect_timeout, read=config.read_timeout),
        retries=retries,
        ssl_context=_trust(config.ca_file) if secure else None,
    )


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = "is not a PEM file of certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"ca_file {ca_file}: {reason}") from error


def _served_at(headers: Mapping[str, str]) -> datetime:
    date = headers.get("Date")
    return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)


def _lifetime(seconds: float) -> timedelta:
    if not _MIN_URL_SECONDS <= seconds <= _MAX_URL_SECONDS:
        raise ValueError(f"a URL is valid for {_MIN_URL_SECONDS} to {_MAX_URL_SECONDS} seconds, not {seconds:g}")
    return timedelta(seconds=seconds)
