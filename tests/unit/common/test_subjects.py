"""Subjects: any text becomes one legal token and comes back; builders, parsers and filters agree."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchyard.common import subjects
from batchyard.common.service import Messaging
from batchyard.common.subjects import EventSubject, decode_token, encode_token

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TRICKY_TEXT = st.lists(
    st.sampled_from([".", "*", ">", "=", " ", "=41", "\n", "/", "é", "模"]) | ANY_TEXT, min_size=1
).map("".join)
# KV keys are the narrower: `[-/_=.a-zA-Z0-9]` (ADR-8), and a `.` would part the token in two.
LEGAL = re.compile(r"[-_=a-zA-Z0-9]+")


@given(text=TRICKY_TEXT)
def test_any_text_comes_back_from_its_token(text: str) -> None:
    assert decode_token(encode_token(text)) == text


@given(text=TRICKY_TEXT)
def test_a_token_is_legal_in_subjects_and_in_keys(text: str) -> None:
    assert LEGAL.fullmatch(encode_token(text))


@given(one=TRICKY_TEXT, other=TRICKY_TEXT)
def test_two_texts_never_share_a_token(one: str, other: str) -> None:
    assume(one != other)
    assert encode_token(one) != encode_token(other)


@given(text=st.text())
def test_a_text_that_is_read_as_a_token_is_the_only_one_for_its_meaning(text: str) -> None:
    try:
        meaning = decode_token(text)
    except ValueError:
        return
    assert encode_token(meaning) == text


def test_names_of_letters_digits_hyphens_and_underscores_stay_readable() -> None:
    assert encode_token("Team_1-b") == "Team_1-b"


def test_an_empty_text_has_no_token() -> None:
    with pytest.raises(ValueError, match="cannot be empty"):
        encode_token("")


def test_a_text_that_no_subject_can_hold_has_no_token() -> None:
    with pytest.raises(ValueError, match="4500 characters is too long"):
        encode_token("模" * 500)


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "a b", "*", ">", "=", "=4", "=4g", "=2e", "=41", "=FF", "=C3", "a\n", "é"],
    ids=ascii,
)
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_token(token)


@given(tenant=TRICKY_TEXT, object_id=TRICKY_TEXT)
def test_the_parts_of_an_event_come_back_from_its_subject(tenant: str, object_id: str) -> None:
    subject = subjects.event(tenant, "batches", object_id, "completed")
    assert subjects.parse_event(subject) == EventSubject(tenant, "batches", object_id, "completed")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "t.batches.b.completed",
        "batchyard.v1.evt.t.batches.b",
        "batchyard.v1.evt.t.batches.b.completed.x",
        "batchyard.v1.evt..batches.b.completed",
        "batchyard.v1.cmd.t.batches.b.completed",
        "batchyard.v2.evt.t.batches.b.completed",
    ],
)
def test_any_other_subject_is_not_an_event(subject: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        subjects.parse_event(subject)


@given(batch_id=TRICKY_TEXT)
def test_the_batch_comes_back_from_a_control_subject(batch_id: str) -> None:
    assert subjects.parse_control(subjects.control(batch_id)) == batch_id


@pytest.mark.parametrize("subject", ["batchyard.v1.ctl.batches.", "batchyard.v1.ctl.batches.a.b", "a", ""])
def test_any_other_subject_is_not_control(subject: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        subjects.parse_control(subject)


@given(tenant=TRICKY_TEXT, batch_id=TRICKY_TEXT)
def test_a_tenant_and_an_id_are_one_token_each(tenant: str, batch_id: str) -> None:
    assert subjects.command(tenant, "files", "get").count(".") == 5
    assert subjects.step(tenant, batch_id).count(".") == 4
    assert subjects.work(tenant, batch_id, 7).count(".") == 5
    assert subjects.live(tenant, batch_id).count(".") == 5


@pytest.mark.parametrize("nothing", [{"tenant": ""}, {"object_id": ""}])
def test_a_filter_for_nobody_does_not_match_everybody(nothing: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be empty"):
        subjects.event_filter(**nothing)


EVENTS = [
    (tenant, batch, what) for tenant in ("a", "a.b", "*") for batch in ("b1", "b>") for what in ("failed", "expired")
]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (subjects.event_filter(), EVENTS),
        (subjects.event_filter("batches"), EVENTS),
        (subjects.event_filter("files"), []),
        (subjects.event_filter(tenant="a"), [e for e in EVENTS if e[0] == "a"]),
        (subjects.event_filter(tenant="*"), [e for e in EVENTS if e[0] == "*"]),
        (subjects.event_filter("batches", "failed"), [e for e in EVENTS if e[2] == "failed"]),
        (subjects.event_filter(tenant="a.b", object_id="b>"), [e for e in EVENTS if e[:2] == ("a.b", "b>")]),
        (subjects.ALL_EVENTS, EVENTS),
    ],
)
async def test_a_filter_matches_on_the_server_what_it_says(
    messaging: Messaging, pattern: str, wanted: list[tuple[str, str, str]]
) -> None:
    subscription = await messaging.connection.subscribe(pattern)
    for tenant, batch, what in EVENTS:
        await messaging.connection.publish(subjects.event(tenant, "batches", batch, what))
    await messaging.connection.flush()
    got = [subjects.parse_event((await subscription.next_msg(timeout=5)).subject) for _ in range(len(wanted))]
    assert [(event.tenant, event.object_id, event.what) for event in got] == wanted
    assert subscription.pending_msgs == 0
