"""The fleet, for whoever runs it."""

from fastapi import APIRouter

from batchyard.common.contracts.access import DEFAULT_TENANT
from batchyard.common.contracts.fleet import FleetState, GetFleet
from batchyard.gateway.caller import TheOperator

router = APIRouter(tags=["Fleet"])


@router.get("/fleet")
async def get_fleet(caller: TheOperator) -> FleetState:
    """How the servers are, and how many requests each is given; told by one of the runners, which names itself."""
    return await caller.gateway.commands.call(DEFAULT_TENANT, GetFleet())
