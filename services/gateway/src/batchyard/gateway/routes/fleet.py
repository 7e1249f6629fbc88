"""The fleet, for whoever runs it."""

from fastapi import APIRouter

from batchyard.common.contracts.fleet import FleetState, GetFleet
from batchyard.gateway.caller import TheCaller

router = APIRouter(tags=["Fleet"])


@router.get("/fleet")
async def get_fleet(caller: TheCaller) -> FleetState:
    """How the servers are, and how many requests each is given; told by one of the runners, which names itself."""
    return await caller.call(GetFleet())
