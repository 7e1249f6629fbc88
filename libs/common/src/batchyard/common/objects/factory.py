"""From a URL in the configuration to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from batchyard.common.objects.local import LocalObjectStore

if TYPE_CHECKING:
    from batchyard.common.objects.port import ObjectStore

_OPTIONS = frozenset({"endpoint", "public_endpoint", "region", "ca_file", "addressing", "create_bucket"})


def open_object_store(
    url: str, *, access_key: str | None = None, secret_key: SecretStr | str | None = None
) -> ObjectStore:
    """Build the store that a URL names, without touching it: `check` makes it ready, `close` frees it.

    - `file:///var/lib/batchyard/objects`: a folder of this machine.
    - `s3://bucket?endpoint=http://127.0.0.1:9000`: a bucket. Options: `public_endpoint` (of the URLs that are given
      away; default the endpoint), `region` (default us-east-1), `ca_file` (path of a PEM file with the authorities to
      trust instead of the system's), `addressing` (`path`, `virtual`, or `auto`, the default: by host at AWS, by path
      elsewhere), `create_bucket` (`true` or `false`, the default).

    Args:
        url: Which store. It must not hold credentials.
        access_key: Needed for `s3`.
        secret_key: Needed for `s3`.

    Raises:
        ValueError: the URL cannot be understood, or credentials are missing. The message does not hold the URL.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("credentials do not belong in the URL of an object store")
    match parts.scheme:
        case "file" if parts.netloc in {"", "localhost"} and parts.path and not parts.query:
            return LocalObjectStore(Path(unquote(parts.path)))
        case "s3" if parts.netloc and parts.path in {"", "/"}:
            if not access_key or not secret_key:
                raise ValueError("an s3 object store needs an access key and a secret key")
            secret = secret_key if isinstance(secret_key, SecretStr) else SecretStr(secret_key)
            return _s3_store(parts.netloc, parts.query, access_key, secret)
    raise ValueError("the URL of an object store is file:///path or s3://bucket?endpoint=http(s)://host[:port]")


def _s3_store(bucket: str, query: str, access_key: str, secret_key: SecretStr) -> ObjectStore:
    # The client takes a quarter of a service's start to import: who keeps objects in a folder does without.
    from batchyard.common.objects.minio import MinioObjectStore  # noqa: PLC0415
    from batchyard.common.objects.minio_client import Addressing, MinioConfig  # noqa: PLC0415

    options = {name: values[-1] for name, values in parse_qs(query, strict_parsing=bool(query)).items()}
    if unknown := options.keys() - _OPTIONS:
        raise ValueError(f"unknown options of an s3 object store: {', '.join(sorted(unknown))}")
    if "endpoint" not in options:
        raise ValueError("an s3 object store needs the option endpoint")
    create = options.get("create_bucket", "false")
    if create not in {"true", "false"}:
        raise ValueError("create_bucket is true or false")
    addressing = options.get("addressing", Addressing.AUTO)
    if addressing not in [*Addressing]:
        raise ValueError("addressing is auto, path or virtual")
    return MinioObjectStore(
        MinioConfig(
            endpoint=options["endpoint"],
            bucket=bucket,
            access_key=access_key,
            secret_key=secret_key,
            public_endpoint=options.get("public_endpoint"),
            region=options.get("region", "us-east-1"),
            ca_file=Path(options["ca_file"]) if "ca_file" in options else None,
            addressing=Addressing(addressing),
            create_bucket=create == "true",
        )
    )
