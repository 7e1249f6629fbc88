"""Errors travel over NATS and arrive as what they were."""

import pytest

from batchyard.common import errors
from batchyard.common.errors import ApiError, ErrorBody, InternalError, NotFound, ServiceUnavailable, TooManyRequests


def kinds(root: type[ApiError] = ApiError) -> list[type[ApiError]]:
    """The errors of the shared tree; a service may have others of its own."""
    shared = [child for child in root.__subclasses__() if child.__module__ == ApiError.__module__]
    return [kind for child in shared for kind in (child, *kinds(child))]


@pytest.mark.parametrize("kind", kinds())
def test_an_error_arrives_as_the_class_it_was(kind: type[ApiError]) -> None:
    sent = kind("Why.", param="a.b", code="c", retry_after=7)
    body = ErrorBody.model_validate_json(sent.body().model_dump_json())
    received = ApiError.from_body(body)
    assert type(received) is kind
    assert received.body() == sent.body()


@pytest.mark.parametrize("kind", kinds())
def test_the_documented_tree_names_every_error_with_its_status(kind: type[ApiError]) -> None:
    assert f"{kind.__name__} " in str(errors.__doc__)
    assert str(kind.http_status) in str(errors.__doc__)


def test_every_status_has_one_class_or_they_differ_by_type() -> None:
    statuses = [(kind.http_status, kind.type) for kind in kinds()]
    assert len(statuses) == len(set(statuses))


def test_a_status_of_a_newer_peer_is_an_internal_error() -> None:
    body = ErrorBody(message="New.", type="x", http_status=418)
    assert type(ApiError.from_body(body)) is InternalError


def test_an_error_reads_as_its_message() -> None:
    assert str(NotFound("No such File object: x")) == "No such File object: x"


def test_a_missing_service_says_when_to_come_back() -> None:
    assert ServiceUnavailable("Away.").retry_after


def test_a_rate_limit_has_openais_code() -> None:
    assert TooManyRequests("Slow down.").code == "rate_limit_exceeded"
    assert TooManyRequests("Pay.", code="insufficient_quota").code == "insufficient_quota"
