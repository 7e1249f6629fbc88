"""Every place in which a request can name its model, in every combination: what goes before what."""

from itertools import product
from typing import Any

import httpx
import pytest
from unit.gateway.peers import Recorder
from unit.gateway.rig import LINE, Served, error_of

from batchyard.common.contracts.batches import CreateBatch
from batchyard.common.ids import decode_id

WISH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}

BODY: list[str | None] = [None, " ", "body"]
QUERY: list[list[str]] = [[], ["query"], ["", "query", "query"]]
HEADER: list[list[str]] = [[], ["header"], ["header", "", "header"]]
COMBINATIONS = list(product(BODY, QUERY, HEADER))


def first_named(body: str | None, query: list[str], header: list[str]) -> str | None:
    """The rule, once more: body, then query, then header; what is empty names nothing."""
    named = [value.strip() for value in (body or "", *query, *header) if value.strip()]
    return named[0] if named else None


async def upload(gateway: Served, fields: list[tuple[str, str]], query: list[str], header: list[str]) -> httpx.Response:
    return await gateway.http.post(
        "/v1/files",
        params={"model": query},
        headers=[("x-litellm-model", value) for value in header],
        files=[
            ("purpose", (None, "batch")),
            *((name, (None, value)) for name, value in fields),
            ("file", ("in.jsonl", LINE)),
        ],
    )


async def create(gateway: Served, body: object, query: list[str], header: list[str]) -> httpx.Response:
    wish: dict[str, Any] = WISH if body is None else WISH | {"model": body}
    return await gateway.http.post(
        "/v1/batches",
        json=wish,
        params={"model": query},
        headers=[("x-litellm-model", value) for value in header],
    )


@pytest.mark.parametrize("field", ["model", "target_model_names", "target_model_names[]"])
async def test_an_upload_takes_the_first_place_that_names_a_model(
    gateway: Served, subtests: pytest.Subtests, field: str
) -> None:
    for body, query, header in COMBINATIONS:
        with subtests.test(body=body, query=query, header=header):
            response = await upload(gateway, [] if body is None else [(field, body)], query, header)
            assert response.status_code == 200, response.text
            assert decode_id(response.json()["id"]).model == first_named(body, query, header)


async def test_a_batch_takes_the_first_place_that_names_a_model(
    gateway: Served, recorder: Recorder, subtests: pytest.Subtests
) -> None:
    for body, query, header in COMBINATIONS:
        with subtests.test(body=body, query=query, header=header):
            recorder.asked.clear()
            assert (await create(gateway, body, query, header)).status_code == 200
            assert recorder.only(CreateBatch).model == first_named(body, query, header)


FIELDS: list[tuple[list[tuple[str, str]], str | None]] = [
    ([("model", "a"), ("model", "a")], "a"),
    ([("model", "a"), ("target_model_names", "a")], "a"),
    ([("target_model_names", "a,a, a ,")], "a"),
    ([("target_model_names", "a"), ("target_model_names", "a")], "a"),
    ([("target_model_names", "a"), ("target_model_names[]", "a")], "a"),
    ([("target_model_names", " , ")], None),
    ([("model", "hosted_vllm/a")], "hosted_vllm/a"),
    ([("model", "a;b,c")], "a;b,c"),
    ([("model", "a/b c:d@模")], "a/b c:d@模"),
]


async def test_a_form_may_say_the_same_several_times(gateway: Served, subtests: pytest.Subtests) -> None:
    for fields, model in FIELDS:
        with subtests.test(fields=fields):
            response = await upload(gateway, fields, [], [])
            assert decode_id(response.json()["id"]).model == model


CONTRADICTIONS: list[tuple[list[tuple[str, str]], list[str], list[str], str]] = [
    ([], [], ["a", "b"], "x-litellm-model"),
    ([], ["a", "b"], [], "model"),
    ([("model", "a")], [], ["a", "b"], "x-litellm-model"),  # a contradiction is one even where nobody listens
    ([("model", "a")], ["a", "b"], [], "model"),
    ([("model", "a"), ("model", "b")], [], [], "model"),
    ([("target_model_names", "a,b")], [], [], "target_model_names"),
    ([("target_model_names", "a"), ("target_model_names", "b")], [], [], "target_model_names"),
    ([("model", "a"), ("target_model_names", "b")], [], [], "target_model_names"),
    ([], [], ["m" * 513], "model"),
]


async def test_a_place_that_contradicts_itself_is_a_400(
    gateway: Served, recorder: Recorder, subtests: pytest.Subtests
) -> None:
    for fields, query, header, param in CONTRADICTIONS:
        with subtests.test(fields=fields, query=query, header=header):
            response = await upload(gateway, fields, query, header)
            assert (response.status_code, error_of(response)["param"]) == (400, param)
            if not fields:
                response = await create(gateway, None, query, header)
                assert (response.status_code, error_of(response)["param"]) == (400, param)
    assert recorder.asked == []
    assert await gateway.keys() == []


@pytest.mark.parametrize("model", [7, ["a"], {"a": 1}, True, "m" * 513])
async def test_a_model_in_the_body_that_is_no_name_is_a_400(gateway: Served, model: object) -> None:
    response = await create(gateway, model, [], [])
    assert (response.status_code, error_of(response)["param"]) == (400, "model")


async def test_a_header_may_be_utf8_or_latin1(gateway: Served) -> None:
    for sent in ("模型".encode(), "modèle".encode("latin-1")):
        response = await gateway.http.post(
            "/v1/files",
            headers=[(b"x-litellm-model", sent)],
            data={"purpose": "batch"},
            files={"file": ("in.jsonl", LINE)},
        )
        assert decode_id(response.json()["id"]).model in {"模型", "modèle"}
