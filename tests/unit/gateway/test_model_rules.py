"""Models that a key may name: at uploads, in the list, and in what batch-runner is told."""

from typing import Any

import pytest
from unit.gateway.peers import Recorder
from unit.gateway.rig import Served, error_of
from unit.gateway.test_keys import Act, act, client

from batchyard.common.contracts.batches import CreateBatch, RetryBatch, ValidateBatch

__all__ = ["act"]

WISH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
FILE = {"file": ("in.jsonl", b'{"custom_id": "a"}\n')}


@pytest.fixture
async def secret(act: Act) -> str:
    """A key of a team that may use models called llama…, which itself may use llama and any gpt."""
    await act("/team/new", team_id="t", models=["llama*"])
    made = await act("/key/generate", team_id="t", models=["llama", "gpt-*"])
    return str(made["key"])


async def test_an_upload_for_a_model_that_the_key_may_not_use_is_refused(gateway: Served, secret: str) -> None:
    async with client(gateway, secret) as http:

        async def status(model: str, **where: Any) -> tuple[int, str | None]:
            response = await http.post("/v1/files", files=FILE, **where)
            return (200, None) if response.status_code == 200 else (response.status_code, error_of(response)["code"])

        for model, answer in (
            ("llama", (200, None)),
            ("gpt-4", (403, "model_not_allowed")),
            ("x", (403, "model_not_allowed")),
        ):
            assert await status(model, data={"purpose": "batch", "model": model}) == answer
            assert await status(model, data={"purpose": "batch"}, headers={"x-litellm-model": model}) == answer
        announced = {"bytes": 1, "filename": "a.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
        for model, expected in (("llama", 200), ("gpt-4", 403)):
            assert (await http.post("/v1/uploads", json=announced | {"model": model})).status_code == expected
    assert len(await gateway.keys()) == 2


async def test_the_list_holds_what_the_key_may_use(gateway: Served, secret: str) -> None:
    async with client(gateway, secret) as http:
        assert [model["id"] for model in (await http.get("/v1/models")).json()["data"]] == ["llama"]
        assert (await http.get("/v1/models/llama")).status_code == 200
        response = await http.get("/v1/models/meta-llama/Llama-3.1-8B Instruct")
        assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert len((await gateway.http.get("/v1/models")).json()["data"]) == 2


async def test_commands_carry_the_models_of_the_key(gateway: Served, secret: str, recorder: Recorder) -> None:
    async with client(gateway, secret) as http:
        await http.post("/v1/batches", json=WISH)
        await http.post("/v1/batches", json=WISH | {"dry_run": True})
        await http.post("/v1/batches/batch_1/retry")
    commands = (recorder.only(CreateBatch), recorder.only(ValidateBatch), recorder.only(RetryBatch))
    assert [command.key_models for command in commands] == [("llama", "gpt-*")] * 3


async def test_the_fleet_is_for_who_runs_it(gateway: Served, secret: str) -> None:
    async with client(gateway, secret) as http:
        response = await http.get("/v1/fleet")
        assert (response.status_code, error_of(response)["code"]) == (403, "master_key_required")
    assert (await gateway.http.get("/v1/fleet", headers={"x-batchyard-team": "t"})).status_code == 200
