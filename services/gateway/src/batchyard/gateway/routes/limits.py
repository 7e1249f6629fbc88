"""What the caller's team and key may do, and how much of it is used."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from batchyard.common.contracts.budgets import BudgetReport, GetBudgets, KeyLimits
from batchyard.common.contracts.enqueued import EnqueuedReport, GetEnqueued
from batchyard.common.contracts.files import GetStorage, StorageReport
from batchyard.gateway.caller import TheCaller

router = APIRouter(tags=["Limits"])


class LimitsReport(BaseModel):
    """`enqueued` is what batches that have not ended take; `budgets` what is spent, reserved, and left; `storage` what
    files take."""

    object: Literal["limits"] = "limits"
    team_id: str
    enqueued: EnqueuedReport
    budgets: BudgetReport
    storage: StorageReport


@router.get("/limits")
async def get_limits(caller: TheCaller) -> LimitsReport:
    """How much the team and the key have used of their limits and budgets, and when budgets are reset."""
    key_id, limits = caller.identity.key_id, caller.key_limits
    key = None if key_id is None or limits is None else KeyLimits(key_id=key_id, limits=limits)
    enqueued, budgets, storage = await asyncio.gather(
        caller.call(GetEnqueued(key_id=key_id, key_limits=limits)),
        caller.call(GetBudgets(key=key)),
        caller.call(GetStorage()),
    )
    return LimitsReport(team_id=caller.identity.tenant, enqueued=enqueued, budgets=budgets, storage=storage)
