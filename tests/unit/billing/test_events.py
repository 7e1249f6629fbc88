"""What a message says, and when it is tried again."""

import json

import pytest
from unit.billing.ends import ended

from batchyard.billing.subscriber import FromTheFuture, Unreadable, parse, redelivery_delay


def test_the_delay_grows_to_a_minute() -> None:
    assert [redelivery_delay(n) for n in (1, 2, 3, 6, 7, 8, 10**6)] == [1, 2, 4, 32, 60, 60, 60]


def test_an_event_is_read() -> None:
    event = ended("team a/1")
    assert parse(event.subject, event.model_dump_json().encode()) == event


def test_an_event_from_before_keys_had_ids_is_read() -> None:
    event = ended()
    document = json.loads(event.model_dump_json())
    del document["key_id"]
    assert parse(event.subject, json.dumps(document).encode()) == event.model_copy(update={"key_id": None})


def test_an_event_of_a_later_version_is_not_an_unreadable_one() -> None:
    event = ended()
    later = json.dumps({"version": 2, "new": True}).encode()
    with pytest.raises(FromTheFuture):
        parse(event.subject, later)
    with pytest.raises(Unreadable):
        parse(event.subject, json.dumps({"version": 1}).encode())


def test_a_tenant_without_a_name_is_unreadable() -> None:
    event = ended().model_copy(update={"tenant": ""})
    with pytest.raises(Unreadable):
        parse("x", event.model_dump_json().encode())
