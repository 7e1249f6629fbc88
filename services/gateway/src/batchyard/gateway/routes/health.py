"""Health: for load balancers and orchestrators; no key is needed."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from batchyard.gateway.caller import TheGateway
from batchyard.gateway.readiness import Readiness, readiness

router = APIRouter(tags=["Health"], prefix="/health")


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/liveness")
async def get_liveness() -> Liveness:
    """Whether the gateway itself answers."""
    return Liveness()


@router.get("/readiness", responses={503: {"model": Readiness, "description": "A service is missing or unwell"}})
async def get_readiness(gateway: TheGateway, response: Response) -> Readiness:
    """Whether the gateway and every service behind it can work now."""
    found = await readiness(gateway)
    if found.status != "ok":
        response.status_code = 503
    return found
