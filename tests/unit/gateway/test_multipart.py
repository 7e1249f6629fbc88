"""The form decoder: however a body is cut, and whatever it holds."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.gateway.rig import BOUNDARY, form

from batchyard.common.errors import InvalidRequest
from batchyard.gateway.multipart import (
    Event,
    MultipartDecoder,
    PartBegan,
    PartData,
    PartEnded,
    boundary_of,
    clean_filename,
    parse_disposition,
)

# Contents that come close to a boundary are the interesting ones; what has one in it ends there.
DELIMITER = f"\r\n--{BOUNDARY}".encode()
contents = (
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"--", DELIMITER[2:7], b"b0undary", b"x", b"\xff"]))
    .map(b"".join)
    .filter(lambda content: DELIMITER not in b"\r\n" + content)
)


def decoded(body: bytes, cuts: list[int]) -> list[tuple[str, str | None, bytes]]:
    """The parts that a body holds when it comes in these pieces."""
    decoder = MultipartDecoder(BOUNDARY.encode())
    events: list[Event] = []
    edges = [0, *sorted(cuts), len(body)]
    for begin, end in itertools.pairwise(edges):
        events += decoder.feed(body[begin:end])
    assert decoder.is_complete
    parts: list[tuple[str, str | None, bytes]] = []
    for event in events:
        match event:
            case PartBegan(name, filename):
                parts.append((name, filename, b""))
            case PartData(data):
                name, filename, before = parts[-1]
                parts[-1] = (name, filename, before + data)
            case PartEnded():
                pass
    return parts


@given(file=contents, field=contents, data=st.data())
def test_a_form_is_the_same_however_it_is_cut(file: bytes, field: bytes, data: st.DataObject) -> None:
    body = form(('name="file"; filename="a"', file), ('name="purpose"', field))
    cuts = data.draw(st.lists(st.integers(0, len(body))))
    assert decoded(body, cuts) == [("file", "a", file), ("purpose", None, field)]


def test_what_follows_the_form_is_ignored() -> None:
    body = form(('name="a"', b"1"))
    assert decoded(body + b"\r\nan epilogue", []) == [("a", None, b"1")]


def test_an_unfinished_form_is_not_complete() -> None:
    decoder = MultipartDecoder(BOUNDARY.encode())
    decoder.feed(form(('name="a"', b"1"))[:-4])
    assert not decoder.is_complete


@given(st.binary())
def test_anything_else_is_refused_or_nothing(body: bytes) -> None:
    decoder = MultipartDecoder(BOUNDARY.encode())
    try:
        assert decoder.feed(body) == []
    except InvalidRequest:
        return
    assert not decoder.is_complete


def test_headers_without_end_are_refused() -> None:
    decoder = MultipartDecoder(BOUNDARY.encode())
    with pytest.raises(InvalidRequest, match="header"):
        decoder.feed(f"--{BOUNDARY}\r\nx: ".encode() + b"x" * 100_000)


@given(st.binary(max_size=300))
def test_any_disposition_is_read_or_refused(value: bytes) -> None:
    try:
        part = parse_disposition(b"form-data; name=x; " + value)
    except InvalidRequest:
        return
    assert part.filename is None or part.filename.isprintable()


@given(st.text())
def test_a_clean_name_is_printable_and_no_path(name: str) -> None:
    cleaned = clean_filename(name)
    assert cleaned.isprintable()
    assert not {"/", "\\"} & set(cleaned)


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b:c"', b"a b:c"),
    ],
)
def test_the_boundary_is_found(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


PIECES = st.sampled_from(
    [
        *(
            "form-data",
            "; ",
            "name",
            "filename",
            "*",
            "*0*",
            "=",
            '"',
            "\\",
            "''",
            "%",
            "%FF",
            "%0D%0A",
            "\r\n ",
            "../",
        ),
        *("utf-8", "idna", "unicode_escape", "utf-7", "undefined", "%5Cud800", "%2B2AA-", "é", "\x00"),
        "=?utf-8?b?4oKs?=",
    ]
)


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=12).map("".join).map(str.encode) | st.binary(max_size=60), st.booleans())
@example(b"filename*=idna''%FF", True)
@example(b"name*=unicode_escape''%5Cud800", False)
def test_any_disposition_is_understood_as_text_or_refused(value: bytes, is_named: bool) -> None:
    try:
        part = parse_disposition((b"form-data; name=x; " if is_named else b"form-data; ") + value)
    except InvalidRequest:
        return
    assert part.name.encode()
    if part.filename is not None:
        assert part.filename.encode().decode().isprintable()
        assert not set(part.filename) & set("/\\")
