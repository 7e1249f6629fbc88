"""Keys: https://docs.litellm.ai/docs/proxy/virtual_keys. The paths and most members are LiteLLM's."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from batchyard.common.contracts.access import Key
from batchyard.common.errors import NotFound
from batchyard.gateway.access_answers import (
    DeletedKeys,
    KeyInfo,
    KeyPage,
    NewSecret,
    ShownKey,
    shown_key,
    with_secret,
)
from batchyard.gateway.access_request import B, parse
from batchyard.gateway.bodies import read_json
from batchyard.gateway.caller import Caller, TheAdmin, TheCaller
from batchyard.gateway.document import refusals
from batchyard.gateway.key_request import DeleteKeys, GenerateKey, NameKey, RegenerateKey, UpdateKey
from batchyard.gateway.keys import Made
from batchyard.gateway.request_bodies import json_body
from batchyard.gateway.spent import spent_by

router = APIRouter(tags=["Keys"], prefix="/key")

MAX_PAGE = 100


@router.post("/generate", openapi_extra=json_body(GenerateKey), responses=refusals(404, 409))
async def generate_key(request: Request, caller: TheAdmin) -> NewSecret:
    """A new key. Its secret is in the answer, and nowhere else."""
    return _with_secret(caller, await caller.gateway.keys.generate(await _body(GenerateKey, request, caller)))


@router.post("/update", openapi_extra=json_body(UpdateKey), responses=refusals(404, 409))
async def update_key(request: Request, caller: TheAdmin) -> ShownKey:
    """Change what a key may do, from now on. Its team stays."""
    return _shown(caller, await caller.gateway.keys.update(await _body(UpdateKey, request, caller)))


@router.post("/regenerate", openapi_extra=json_body(RegenerateKey), responses=refusals(404, 409))
async def regenerate_key(request: Request, caller: TheAdmin) -> NewSecret:
    """A new secret for a key, which keeps its ID, its bounds and what it has spent. The old secret works for
    `grace_period` more."""
    return _with_secret(caller, await caller.gateway.keys.regenerate(await _body(RegenerateKey, request, caller)))


@router.post("/block", openapi_extra=json_body(NameKey), responses=refusals(404))
async def block_key(request: Request, caller: TheAdmin) -> ShownKey:
    """Let a key open nothing. Its running batches run on."""
    wanted = await _body(NameKey, request, caller)
    return _shown(caller, await caller.gateway.keys.block(wanted.key, blocked=True))


@router.post("/unblock", openapi_extra=json_body(NameKey), responses=refusals(404))
async def unblock_key(request: Request, caller: TheAdmin) -> ShownKey:
    """Let a blocked key open again what it did."""
    wanted = await _body(NameKey, request, caller)
    return _shown(caller, await caller.gateway.keys.block(wanted.key, blocked=False))


@router.post("/delete", openapi_extra=json_body(DeleteKeys), responses=refusals(404))
async def delete_keys(request: Request, caller: TheAdmin) -> DeletedKeys:
    """Remove keys for good; none, if one of them is unknown. Files and batches are their team's, and stay."""
    wanted = await _body(DeleteKeys, request, caller)
    keys = caller.gateway.keys
    found = [await keys.known(name) for name in wanted.keys] + [keys.aliased(alias) for alias in wanted.key_aliases]
    return DeletedKeys(deleted_keys=await keys.delete(list({key.key_id: key for key in found}.values())))


@router.get("/info", responses=refusals(404))
async def get_key_info(
    caller: TheCaller,
    key: Annotated[
        str | None, Query(description="The key's ID, rather than a secret of it: URLs end up in logs", max_length=256)
    ] = None,
) -> KeyInfo:
    """A key; without `key` the one that asks. A key that is not the master key may ask about itself alone."""
    own = caller.identity.key
    if not key:
        if own is None:
            raise NotFound("The master key has no record: name a 'key'.", param="key", code="key_not_found")
        found = own
    elif caller.identity.is_admin:
        found = await caller.gateway.keys.known(key)
    else:
        found = caller.gateway.keys.named(key, only=own)
    return KeyInfo(key=found.key_id, info=(await _with_spend(caller, [found]))[0])


@router.get("/list")
async def list_keys(
    caller: TheAdmin,
    team_id: Annotated[str | None, Query(description="Only those of a team")] = None,
    key_alias: Annotated[str | None, Query(description="Only the one of this alias")] = None,
    status: Annotated[Literal["active", "blocked", "expired"] | None, Query(description="Only those")] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 10,
    return_full_object: Annotated[bool, Query(description="The keys themselves, not their IDs alone")] = False,
) -> KeyPage:
    """The keys, newest first, by their IDs or whole."""
    keys = caller.gateway.directory.newest_keys(team_id or None)
    named = [key for key in keys if not key_alias or key.key_alias == key_alias]
    found = [key for key in named if status is None or _shown(caller, key).status == status]
    wanted = found[(page - 1) * size : page * size]
    return KeyPage(
        keys=await _with_spend(caller, wanted) if return_full_object else [key.key_id for key in wanted],
        total_count=len(found),
        current_page=page,
        total_pages=-(-len(found) // size),
    )


async def _body(model: type[B], request: Request, caller: Caller) -> B:
    return parse(model, await read_json(request, caller.gateway.settings))


def _shown(caller: Caller, key: Key) -> ShownKey:
    return shown_key(key, caller.gateway.clock.now())


async def _with_spend(caller: Caller, keys: list[Key]) -> list[ShownKey]:
    now, spent = caller.gateway.clock.now(), await spent_by(caller.gateway.commands, keys)
    return [shown_key(key, now, spend) for key, spend in zip(keys, spent, strict=True)]


def _with_secret(caller: Caller, made: Made) -> NewSecret:
    return with_secret(made.key, made.secret, caller.gateway.clock.now())
