"""Refusals in vLLM's shapes, as observed (contract.md, «What plain vLLM does»)."""

import pytest
from unit.vllm_sim.asking import Client, Start, user


async def test_an_unknown_model_is_not_found(client: Client) -> None:
    answer = await client.chat("hello", model="other")
    assert answer.status == 404
    assert answer.json == {
        "error": {
            "message": "The model `other` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_a_bad_request(client: Client, body: bytes) -> None:
    answer = await client.post_bytes("/v1/chat/completions", body)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "Bad Request"


async def test_another_content_type_is_a_bad_request(client: Client) -> None:
    answer = await client.post_bytes("/v1/chat/completions", b"{}", "text/plain")
    assert answer.status == 400


async def test_a_charset_is_no_other_content_type(client: Client) -> None:
    body = b'{"messages": [{"role": "user", "content": "hello"}]}'
    answer = await client.post_bytes("/v1/chat/completions", body, "application/json; charset=utf-8")
    assert answer.status == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"messages": user("hello"), "n": "two"},
        {"messages": user("hello"), "model": 7},
        {"messages": user("hello"), "priority": None},
        {"messages": user("hello"), "priority": 1.0},
        {"messages": user("hello"), "stream": True, "stream_options": "yes"},
    ],
)
async def test_a_wrong_schema_is_a_bad_request(client: Client, body: object) -> None:
    answer = await client.post("/v1/chat/completions", body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "Bad Request")


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"n": 0}, {"n": 5000}, {"min_tokens": -1}])
async def test_a_bad_value_is_a_bad_request_error(client: Client, fields: dict[str, int]) -> None:
    answer = await client.chat("hello", **fields)
    assert (answer.status, answer.json["error"]["type"]) == (400, "BadRequestError")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": 7}),
        ("/v1/completions", {"prompt": [{}]}),
        ("/v1/responses", {"input": 7}),
        ("/v1/responses", {"input": "hello", "stream": True}),
        ("/v1/rerank", {"query": 7, "documents": ["a"]}),
    ],
)
async def test_other_routes_refuse_wrong_types(client: Client, path: str, body: object) -> None:
    answer = await client.post(path, body)
    assert answer.status == 400


async def test_a_prompt_that_is_too_long_is_a_bad_request_error(start: Start) -> None:
    client = await start(max_model_len=50)
    answer = await client.chat("word " * 60)
    assert (answer.status, answer.json["error"]["type"]) == (400, "BadRequestError")
    assert "maximum context length is 50 tokens" in answer.json["error"]["message"]


async def test_a_body_over_the_limit_is_refused(start: Start) -> None:
    client = await start(max_body_bytes=2048)
    answer = await client.chat("x" * 4096)
    assert answer.status == 413


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/nowhere"])
async def test_a_key_is_asked_for_on_v1(start: Start, path: str, headers: dict[str, str]) -> None:
    client = await start(api_key="secret")
    answer = await client.post(path, {"messages": user("hello")}, headers)
    assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})


async def test_the_right_key_is_let_in(start: Start) -> None:
    client = await start(api_key="secret")
    headers = {"Authorization": "Bearer secret"}
    assert (await client.get("/v1/models", headers)).status == 200
    assert (await client.post("/v1/chat/completions", {"messages": user("hello")}, headers)).status == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/version", "/sim/requests"])
async def test_no_key_is_asked_for_outside_v1(start: Start, path: str) -> None:
    client = await start(api_key="secret")
    assert (await client.get(path)).status == 200


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_vllm_lacks_is_not_found(client: Client, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status, answer.json) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET")]
)
async def test_the_wrong_method_is_not_allowed(client: Client, method: str, path: str, allowed: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status, answer.json) == (405, {"detail": "Method Not Allowed"})
    assert answer.headers["Allow"] == allowed
