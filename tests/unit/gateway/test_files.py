"""Files: get, list, delete, and what stands in the way."""

import pytest
from unit.gateway.rig import LINE, Served, error_of


async def test_a_file_is_answered_as_it_was_created(gateway: Served) -> None:
    file = (await gateway.upload()).json()
    assert (await gateway.http.get(f"/v1/files/{file['id']}")).json() == file
    assert (await gateway.http.get(f"/files/{file['id']}")).json() == file


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_head_of_a_file_answers_the_headers_alone(gateway: Served, prefix: str) -> None:
    file = (await gateway.upload()).json()
    url = f"{prefix}/files/{file['id']}"
    head, get = await gateway.http.head(url), await gateway.http.get(url)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


async def test_a_file_that_does_not_exist_is_a_404(gateway: Served) -> None:
    response = await gateway.http.get("/v1/files/file-nope")
    assert response.status_code == 404
    assert error_of(response) == {
        "message": "No such File object: file-nope",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }


async def test_a_deleted_file_is_gone_with_its_bytes(gateway: Served) -> None:
    file_id = (await gateway.upload()).json()["id"]
    response = await gateway.http.delete(f"/v1/files/{file_id}")
    assert response.json() == {"id": file_id, "object": "file", "deleted": True}
    assert (await gateway.http.get(f"/v1/files/{file_id}")).status_code == 404
    assert await gateway.keys() == []


async def test_the_list_pages_through_everything(gateway: Served) -> None:
    ids = [(await gateway.upload()).json()["id"] for _ in range(3)]
    first = (await gateway.http.get("/v1/files", params={"limit": 2})).json()
    assert first["object"] == "list"
    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[2], ids[1], True)
    rest = (await gateway.http.get("/files", params={"limit": 2, "after": first["last_id"]})).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)


async def test_the_list_can_be_ordered_and_filtered(gateway: Served) -> None:
    batch = (await gateway.upload()).json()["id"]
    other = (await gateway.upload(LINE, purpose="evals")).json()["id"]
    ascending = (await gateway.http.get("/v1/files", params={"order": "asc"})).json()
    assert [file["id"] for file in ascending["data"]] == [batch, other]
    evals = (await gateway.http.get("/v1/files", params={"purpose": "evals"})).json()
    assert [file["id"] for file in evals["data"]] == [other]


async def test_the_files_of_outputs_can_be_listed(gateway: Served) -> None:
    assert (await gateway.http.get("/v1/files", params={"purpose": "batch_output"})).json()["data"] == []


async def test_empty_parameters_are_none(gateway: Served) -> None:
    assert (await gateway.http.get("/v1/files", params={"after": "", "purpose": ""})).status_code == 200


@pytest.mark.parametrize(
    ("params", "message", "param", "code"),
    [
        (
            {"limit": "10001"},
            "Invalid 'limit': integer above maximum value. Expected a value <= 10000, but got 10001 instead.",
            "limit",
            "integer_above_max_value",
        ),
        (
            {"limit": "0"},
            "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got 0 instead.",
            "limit",
            "integer_below_min_value",
        ),
        (
            {"limit": "many"},
            "Invalid type for 'limit': expected an integer, but got a string instead.",
            "limit",
            "invalid_type",
        ),
        (
            {"order": "up"},
            "Invalid value: 'up'. Supported values are: 'asc' and 'desc'.",
            "order",
            "invalid_value",
        ),
        (
            {"purpose": "x"},
            (
                "'x' is not one of ['batch', 'assistants', 'fine-tune', 'vision', 'user_data', 'evals', 'batch_output']"
                " - 'purpose'"
            ),
            "purpose",
            None,
        ),
    ],
)
async def test_wrong_parameters_are_a_400_in_openai_words(
    gateway: Served, params: dict[str, str], message: str, param: str, code: str | None
) -> None:
    response = await gateway.http.get("/v1/files", params=params)
    assert response.status_code == 400
    assert error_of(response) == {"message": message, "type": "invalid_request_error", "param": param, "code": code}
