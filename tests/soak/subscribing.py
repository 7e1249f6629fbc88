"""Endpoints of webhooks, made by those who want to hear; the answers that tell their secrets may be lost."""

import time

import httpx

from soak.client import Client
from soak.diary import Endpoint, Refused
from soak.teams import DEFAULT

_PATH = "/v1/webhook_endpoints"
_OPERATOR = "operator"
TEAM_HEADER = "x-batchyard-team"


async def subscribe(client: Client, team: str | None, receiver: str) -> Endpoint:
    """An endpoint for all events of a team, or of all teams for who has the master key.

    One that was made before its answer was lost has a secret that nobody knows. So each is made with a URL of which
    nothing is expected, and the one that was told of is given its own.
    """
    name = team or _OPERATOR
    headers = {TEAM_HEADER: DEFAULT} if team == DEFAULT else {}
    types = (await client.json("GET", "/v1/webhook_event_types", headers=headers))["data"]
    body = {"name": name, "url": f"{receiver}/lost/{name}", "event_types": types}
    made = await client.json("POST", _PATH, json=body, headers=headers)
    path = f"/hooks/{name}"
    await client.request("POST", f"{_PATH}/{made['id']}", json={"url": f"{receiver}{path}"}, headers=headers)
    since = time.time()
    async for found in client.pages(_PATH, 100, headers):
        if found["id"] != made["id"]:
            try:
                await client.request("DELETE", f"{_PATH}/{found['id']}", headers=headers)
            except Refused as refused:
                if refused.status != httpx.codes.NOT_FOUND:  # an answer was lost, and it is gone
                    raise
    return Endpoint(path, team, made["signing_secret"], since)
