"""Uploads that succeed, as clients really send them."""

import pytest
from unit.gateway.rig import LINE, Served, Start, form

from batchyard.common.ids import decode_id
from batchyard.common.objects import read


async def test_an_upload_is_answered_with_the_file(gateway: Served) -> None:
    response = await gateway.upload(LINE, name="in.jsonl")
    file = response.json()
    assert response.status_code == 200
    assert file["object"] == "file"
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(LINE), "in.jsonl", "batch")
    assert file["status"] == "processed"
    assert file["expires_at"] == file["created_at"] + 30 * 86_400


async def test_the_bytes_lie_in_the_store_as_they_were_sent(gateway: Served) -> None:
    content = LINE * 1000 + b"no newline at the end"
    assert (await gateway.upload(content)).status_code == 200
    (key,) = await gateway.keys()
    assert await read(gateway.objects, key, max_bytes=1 << 20) == content


async def test_the_file_may_come_before_its_purpose(gateway: Served) -> None:
    body = form(('name="file"; filename="in.jsonl"', LINE), ('name="purpose"', b"batch"))
    assert (await gateway.send_form(body)).json()["bytes"] == len(LINE)


async def test_a_body_may_come_in_the_smallest_chunks(gateway: Served) -> None:
    body = form(('name="purpose"', b"batch"), ('name="file"; filename="in.jsonl"', LINE * 3))
    response = await gateway.send_form(*(body[i : i + 1] for i in range(len(body))))
    assert response.json()["bytes"] == 3 * len(LINE)


async def test_both_prefixes_answer(gateway: Served) -> None:
    response = await gateway.http.post("/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", LINE)})
    assert response.status_code == 200


async def test_a_bom_and_blank_lines_before_the_first_line_are_fine(gateway: Served) -> None:
    assert (await gateway.upload(b"\xef\xbb\xbf\r\n  \r\n" + LINE)).status_code == 200


async def test_a_first_line_too_long_to_peek_at_is_left_to_the_batch(services: object, start: Start) -> None:
    gateway = await start(max_first_line_bytes=1000)
    assert (await gateway.upload(b"x" * 200_000)).status_code == 200


async def test_other_purposes_may_hold_anything(gateway: Served) -> None:
    response = await gateway.upload(b"\x00\xff", name="cat.png", purpose="vision")
    assert response.json()["purpose"] == "vision"
    assert response.json()["expires_at"] is None


async def test_an_empty_file_of_another_purpose_is_a_file(gateway: Served) -> None:
    assert (await gateway.upload(b"", name="empty.bin", purpose="user_data")).json()["bytes"] == 0


async def test_expires_after_is_kept(gateway: Served) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = (await gateway.upload(LINE, **fields)).json()
    assert file["expires_at"] == file["created_at"] + 3600


async def test_unknown_fields_are_ignored(gateway: Served) -> None:
    assert (await gateway.upload(custom_llm_provider="hosted_vllm")).status_code == 200


FILE_NAMES = [
    ('filename="naïve 日本.jsonl"', "naïve 日本.jsonl"),
    ("filename=\"x.jsonl\"; filename*=UTF-8''na%C3%AFve.jsonl", "naïve.jsonl"),
    ("filename*=UTF-8''na%C3%AFve.jsonl; filename=\"x.jsonl\"", "naïve.jsonl"),
    (r'filename="a \"quoted\" name.jsonl"', 'a "quoted" name.jsonl'),
    ('filename="a %22quoted%22 name.jsonl"', 'a "quoted" name.jsonl'),
    ('filename="../../etc/in.jsonl"', "in.jsonl"),
    (r'filename="C:\fakepath\in.jsonl"', "in.jsonl"),
    ('filename="a;b=c.jsonl"', "a;b=c.jsonl"),
    ("filename=plain.jsonl", "plain.jsonl"),
    ('filename="IN.JSONL"', "IN.JSONL"),
]


async def test_file_names_are_understood(gateway: Served, subtests: pytest.Subtests) -> None:
    for sent, kept in FILE_NAMES:
        with subtests.test(sent):
            body = form((f'name="file"; {sent}', LINE), ('name="purpose"', b"batch"))
            assert (await gateway.send_form(body)).json()["filename"] == kept


MODEL_CHOICES: list[tuple[dict[str, str], dict[str, str], dict[str, str], str | None]] = [
    ({}, {}, {}, None),
    ({}, {}, {"x-litellm-model": "header"}, "header"),
    ({}, {"model": "query"}, {"x-litellm-model": "header"}, "query"),
    ({"model": "form"}, {"model": "query"}, {"x-litellm-model": "header"}, "form"),
    ({"target_model_names": "target"}, {"model": "query"}, {}, "target"),
    ({"target_model_names": "same, same"}, {}, {}, "same"),
    ({"target_model_names[]": "target"}, {}, {}, "target"),
    ({"model": "", "target_model_names": ""}, {}, {}, None),
    ({"model": "a;b/ü"}, {}, {}, "a;b/ü"),
]


async def test_the_model_asked_for_goes_into_the_id(gateway: Served, subtests: pytest.Subtests) -> None:
    for fields, query, headers, model in MODEL_CHOICES:
        with subtests.test(fields=fields, query=query, headers=headers):
            response = await gateway.http.post(
                "/v1/files",
                params=query,
                headers=headers,
                data={"purpose": "batch"} | fields,
                files={"file": ("in.jsonl", LINE)},
            )
            assert decode_id(response.json()["id"]).model == model
