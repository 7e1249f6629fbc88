"""IDs: the public form is LiteLLM's and holds every name; whatever else comes in is its own raw ID."""

import base64
import time
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from litellm.proxy.openai_files_endpoints.common_utils import (
    decode_model_from_file_id,
    encode_file_id_with_model,
    get_original_file_id,
)

from batchyard.common.ids import (
    Kind,
    ModelId,
    ModelKind,
    created_at_of,
    decode_id,
    encode_id,
    is_raw_id,
    new_raw_id,
    raw_id_of,
)

KINDS = st.sampled_from(["file", "batch"])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
AWKWARD = st.sampled_from([";", "%", ",", ";model,", "litellm:", "%3B", "%25", "%253B", "\n", "é", "模", "-", "="])
TRICKY_TEXT = st.lists(AWKWARD | ANY_TEXT, min_size=1).map("".join)
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=";%"), min_size=1)
UUID_HEX = st.text("0123456789abcdef", min_size=32, max_size=32)

EXAMPLE = "file-bGl0ZWxsbTpmaWxlLWFiYzEyMzttb2RlbCxncHQtNG8tbGl0ZWxsbQ"


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_the_worked_example_is_encoded_to_the_letter() -> None:
    assert encode_id("file", "file-abc123", "gpt-4o-litellm") == EXAMPLE


def test_the_worked_example_is_decoded() -> None:
    assert decode_id(EXAMPLE) == ModelId("file-abc123", "gpt-4o-litellm")


def test_a_batch_carries_its_own_prefix() -> None:
    assert encode_id("batch", "batch_abc", "m").startswith("batch_")


def test_without_a_model_the_id_stays_raw() -> None:
    assert encode_id("file", "file-abc", None) == "file-abc"


@given(kind=KINDS, raw=TRICKY_TEXT, model=TRICKY_TEXT)
def test_every_raw_id_and_model_name_come_back(kind: ModelKind, raw: str, model: str) -> None:
    assert decode_id(encode_id(kind, raw, model)) == ModelId(raw, model)


@given(kind=KINDS, raw=TRICKY_TEXT, model=TRICKY_TEXT)
def test_an_encoded_id_is_safe_in_a_url_path(kind: ModelKind, raw: str, model: str) -> None:
    encoded = encode_id(kind, raw, model)
    assert encoded.isascii()
    assert encoded.replace("-", "").replace("_", "").isalnum()


@given(text=st.text())
def test_any_other_text_is_its_own_raw_id(text: str) -> None:
    assert decode_id(text) == ModelId(text, None)


@given(kind=KINDS, data=st.binary())
def test_any_other_base64_is_its_own_raw_id(kind: ModelKind, data: bytes) -> None:
    assume(not data.startswith(b"litellm:"))
    value = raw_id_of(kind, unpadded(data))
    assert decode_id(value) == ModelId(value, None)


@given(kind=KINDS, broken=st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80"]), model=st.binary())
def test_bytes_that_are_not_utf8_are_no_encoding(kind: ModelKind, broken: bytes, model: bytes) -> None:
    value = raw_id_of(kind, unpadded(b"litellm:file-1;model," + model + broken))
    assert decode_id(value) == ModelId(value, None)


@given(kind=KINDS, raw=ANY_TEXT, model=ANY_TEXT, padding=st.sampled_from(["=", "==", "===", "\n", " "]))
def test_padding_is_no_part_of_an_encoding(kind: ModelKind, raw: str, model: str, padding: str) -> None:
    value = encode_id(kind, raw, model) + padding
    assert decode_id(value) == ModelId(value, None)


@pytest.mark.parametrize("model", ["m", "mm"])
def test_only_one_spelling_of_an_encoding_is_read(model: str) -> None:
    # The last character of an unpadded base64 text has bits that carry nothing: two IDs must not name one file.
    encoded = encode_id("file", "file-1", model)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twins = [encoded[:-1] + last for last in alphabet if last != encoded[-1]]
    same = [twin for twin in twins if decode_id(twin) == ModelId("file-1", model)]
    assert same == []


@pytest.mark.parametrize("text", ["litellm:;model,m", "litellm:file-1;model,", "litellm:file-1", "file-1;model,m"])
def test_an_encoding_needs_both_parts(text: str) -> None:
    value = f"file-{unpadded(text.encode())}"
    assert decode_id(value) == ModelId(value, None)


def test_an_encoding_without_its_prefix_is_not_read() -> None:
    bare = EXAMPLE.removeprefix("file-")
    assert decode_id(bare) == ModelId(bare, None)


@given(kind=KINDS, uuid=UUID_HEX, model=PLAIN_TEXT)
def test_litellm_reads_our_ids(kind: ModelKind, uuid: str, model: str) -> None:
    raw = raw_id_of(kind, uuid)
    encoded = encode_id(kind, raw, model)
    assert get_original_file_id(encoded) == raw
    assert decode_model_from_file_id(encoded) == model.strip()


@given(kind=KINDS, uuid=UUID_HEX, model=PLAIN_TEXT)
def test_we_read_the_ids_of_litellm(kind: ModelKind, uuid: str, model: str) -> None:
    raw = raw_id_of(kind, uuid)
    assert decode_id(encode_file_id_with_model(raw, model, kind)) == ModelId(raw, model)


def test_a_percent_sign_that_litellm_left_alone_is_read_as_it_is() -> None:
    assert decode_id(encode_file_id_with_model("file-1", "llama-100%")) == ModelId("file-1", "llama-100%")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_new_ids_sort_by_the_time_they_were_made(kind: Kind) -> None:
    made = [new_raw_id(kind) for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_new_id_tells_when_it_was_made(kind: Kind) -> None:
    before = int(time.time())
    made = created_at_of(new_raw_id(kind))
    assert before <= made <= time.time()


def test_the_time_in_an_id_is_in_unix_seconds() -> None:
    # RFC 9562, appendix A.6: February 22, 2022 2:22:22.00 PM GMT-05:00
    moment = datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert created_at_of("file-017f22e279b07cc398c4dc0c0c07398f") == moment.timestamp()


@pytest.mark.parametrize(
    "value", ["", "file-abc", EXAMPLE, "file-" + "0" * 32, "batch-017f22e279b07cc398c4dc0c0c07398f"]
)
def test_what_is_not_a_raw_id_has_no_time(value: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        created_at_of(value)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_new_id_is_raw_for_its_own_kind_only(kind: Kind) -> None:
    assert [other for other in get_args(Kind) if is_raw_id(other, new_raw_id(kind))] == [kind]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "file-",
        EXAMPLE,
        "file-" + "a" * 31,
        "file-" + "a" * 33,
        "file-" + "A" * 32,
        "file-" + "a" * 32 + "\n",
        "file-" + "٣" * 32,
        "file-../" + "a" * 29,
    ],
)
def test_nothing_else_is_a_raw_id(value: str) -> None:
    assert not is_raw_id("file", value)
