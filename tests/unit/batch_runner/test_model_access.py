"""Models that a key or its team may not use: refused when the batch is made, or by the line that names them."""

from collections.abc import Callable
from typing import Any

import pytest

from batchyard.common.contracts.access import Team
from batchyard.common.contracts.batches import BatchStatus, CreateBatch, RetryBatch, ValidateBatch
from batchyard.common.contracts.fleet import GetFleet
from batchyard.common.contracts.models import ListModels
from batchyard.common.errors import PermissionDenied
from batchyard.common.messaging.records import Records
from batchyard.common.messaging.topology import TEAMS_BUCKET
from batchyard.vllm_sim.settings import SimSettings

from .conftest import ENDPOINT, Yard, chat_line

OTHER = "other"
MODEL = "mine"


@pytest.fixture
async def yard(open_yard: Callable[..., Any]) -> Yard:
    opened: Yard = await open_yard(sim=SimSettings(port=0, models=(MODEL, OTHER)), mixed_models=True)
    return opened


def line(custom_id: str, model: str | None) -> bytes:
    return chat_line(custom_id, "hi", model=model)


async def restrict(yard: Yard, *models: str) -> None:
    """Let the team use these models alone, and wait until batch-runner knows."""
    team = Team(team_id=yard.call.tenant, models=models, created_at=0, updated_at=0)
    await Records(yard.messaging.js, TEAMS_BUCKET, Team).put(yard.call.tenant, team)
    while {model.id for model in (await yard.call(ListModels())).data} != set(models):
        pass


async def test_a_named_model_that_the_key_may_not_use_is_refused(yard: Yard) -> None:
    labelled = await yard.call.upload(line("a", OTHER), model=OTHER)
    plain = await yard.call.upload(line("a", OTHER), model=None)
    for wish in ({"input_file_id": labelled.id}, {"input_file_id": plain.id, "model": OTHER}):
        for kind in (CreateBatch, ValidateBatch):
            with pytest.raises(PermissionDenied) as refused:
                await yard.call(kind(**wish, endpoint=ENDPOINT, key_models=(MODEL,)))
            assert (refused.value.code, refused.value.param) == ("model_not_allowed", "model")
    assert (await yard.call(ValidateBatch(input_file_id=labelled.id, endpoint=ENDPOINT, key_models=("o*",)))).valid


async def test_a_line_with_a_model_that_the_key_may_not_use_is_refused(yard: Yard) -> None:
    lines = b"\n".join([line("a", MODEL), line("b", OTHER), line("c", MODEL)])
    file = await yard.call.upload(lines, model=None)
    batch = await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, key_models=(MODEL,)))
    ended = await yard.call.ended(batch.id)
    assert ended.status is BatchStatus.FAILED
    assert ended.errors is not None
    assert [(problem.code, problem.param, problem.line) for problem in ended.errors.data] == [
        ("model_not_allowed", "body.model", 2)
    ]
    verdict = await yard.call(ValidateBatch(input_file_id=file.id, endpoint=ENDPOINT, key_models=(MODEL,)))
    assert verdict.errors == ended.errors


async def test_a_team_is_bound_without_a_key_too(yard: Yard) -> None:
    file = await yard.call.upload(line("a", OTHER), model=None)
    await restrict(yard, MODEL)
    with pytest.raises(PermissionDenied):
        await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, model=OTHER))
    batch = await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT, key_models=(OTHER,)))
    ended = await yard.call.ended(batch.id)
    assert ended.errors is not None
    assert [problem.code for problem in ended.errors.data] == ["model_not_allowed"]


async def test_a_batch_of_a_model_that_is_no_longer_allowed_is_not_retried(yard: Yard) -> None:
    file = await yard.call.upload(chat_line("a", "hi", model=MODEL, max_tokens=-1), model=MODEL)
    batch = await yard.call(CreateBatch(input_file_id=file.id, endpoint=ENDPOINT))
    ended = await yard.call.ended(batch.id)
    assert ended.error_file_id is not None
    with pytest.raises(PermissionDenied):
        await yard.call(RetryBatch(batch_id=batch.id, key_models=(OTHER,)))
    await restrict(yard, OTHER)
    with pytest.raises(PermissionDenied):
        await yard.call(RetryBatch(batch_id=batch.id))


async def test_a_team_does_not_see_the_servers(yard: Yard) -> None:
    yard.call.tenant = "team"
    with pytest.raises(PermissionDenied):
        await yard.call(GetFleet())
