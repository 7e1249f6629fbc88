"""What an S3 server answers when it does not do what it was asked, in words that say what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

import urllib3
from minio.error import InvalidResponseError, S3Error, ServerError

from batchyard.common.objects.errors import ObjectNotFound, ObjectStoreError, ObjectStoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILURES = (InvalidResponseError, S3Error, ServerError, urllib3.exceptions.HTTPError, ParseError, OSError)
"""What a call can raise when the server, or the way to it, fails."""

MISSING = frozenset({"NoSuchKey", "NoSuchObject"})

_REFUSED: Mapping[str, str] = {
    "AccessDenied": "does not let this access key do it, or does not know it",
    "AuthorizationHeaderMalformed": "is in another region: add region=... to BATCHYARD_OBJECT_STORE",
    "ExpiredToken": "says that the credentials have expired",
    "InvalidAccessKeyId": "does not know the access key",
    "InvalidToken": "does not know the credentials",
    "PermanentRedirect": "is not where this bucket is: name the endpoint of its region",
    "RequestTimeTooSkewed": "has another time: set the clock of this machine, or the server's",
    "SignatureDoesNotMatch": "says that the secret key is wrong",
}
"""What only the operator can mend, but without us: it is asked again, and works once it is mended."""
_PASSING = frozenset({"NoSuchBucket", "RequestTimeout", "SlowDown", "TooManyRequests"})


def explain(error: Exception, key: str | None, endpoint: str) -> ObjectStoreError:
    """Turn one of `FAILURES` into an error of the port, with a message that holds no credential."""
    if isinstance(error, S3Error):
        return _answered(error, key, endpoint)
    if isinstance(error, ServerError):
        return ObjectStoreUnavailable(f"{endpoint} answered {error.status_code}: {error}")
    if isinstance(error, (InvalidResponseError, ParseError)):
        return ObjectStoreUnavailable(f"{endpoint} does not answer like an S3 server")
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return ObjectStoreUnavailable(f"{endpoint} cannot be trusted: {_about_tls(reason)}")
    return ObjectStoreUnavailable(f"{endpoint} cannot be reached: {type(reason or error).__name__}")


def _answered(error: S3Error, key: str | None, endpoint: str) -> ObjectStoreError:
    code = error.code or str(error.response.status)
    if code in MISSING and key is not None:
        return ObjectNotFound(key)
    if code in _REFUSED:
        return ObjectStoreUnavailable(f"{endpoint} {_REFUSED[code]} ({code})")
    if error.response.status < 500 and code not in _PASSING:
        return ObjectStoreError(f"{endpoint} answered {code}: {error.message}")
    return ObjectStoreUnavailable(f"{endpoint} answered {code}")


def _about_tls(error: urllib3.exceptions.SSLError) -> str:
    cause = error.args[0] if error.args else error
    message = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(cause).__name__
    return f"{message}; an authority of your own is named by ca_file=/path.pem in BATCHYARD_OBJECT_STORE"
