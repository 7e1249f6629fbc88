"""The test controls under /sim, which vLLM does not have. They ask for no API key.

- `GET /sim/requests`: totals since the last reset, see `SimState.totals`.
- `GET /sim/log?after=N&limit=M`: `{"data": [record…], "last": N, "has_more": bool}`, records with a sequence above N
  (default 0), oldest first, M at most (default 10000); see `batchyard.vllm_sim.request_log.Record`. A record stays
  "pending" until its request ends.
- `POST /sim/reset`: be as at the start.
- `POST /sim/faults` with `{"faults": ["status=503:0.05"], "seed": 1}`: replaces all rates; `seed` may be missing.
- `POST /sim/health` with `{"healthy": false}`: /health and all inference answer 503 until told otherwise.
"""

import json
from typing import Any

from aiohttp import web

from batchyard.vllm_sim.errors import BadValueError
from batchyard.vllm_sim.faults import FaultSyntaxError
from batchyard.vllm_sim.replies import json_response
from batchyard.vllm_sim.state import SimState

_DEFAULT_LIMIT = 10_000


class Control:
    """The handlers of the control routes."""

    def __init__(self, state: SimState) -> None:
        self._state = state

    async def requests(self, _: web.Request) -> web.Response:
        """Answer with the totals."""
        return json_response(self._state.totals())

    async def log(self, request: web.Request) -> web.Response:
        """Answer with recorded requests."""
        after, limit = _whole(request, "after", 0), _whole(request, "limit", _DEFAULT_LIMIT)
        found = self._state.log.records(after, limit + 1)
        records = found[:limit]
        return json_response(
            {
                "data": [record.as_dict() for record in records],
                "last": records[-1].sequence if records else after,
                "has_more": len(found) > limit,
            }
        )

    async def reset(self, _: web.Request) -> web.Response:
        """Be as at the start."""
        self._state.reset()
        return json_response({"reset": True})

    async def faults(self, request: web.Request) -> web.Response:
        """Replace the fault rates."""
        body = await _object(request)
        rates, seed = body.get("faults"), body.get("seed")
        if not isinstance(rates, list) or not all(isinstance(rate, str) for rate in rates):
            raise BadValueError("faults is a list of rates such as status=503:0.05", "faults")
        if seed is not None and not isinstance(seed, int):
            raise BadValueError("seed is a whole number", "seed")
        try:
            self._state.faults.set_rates(rates, seed)
        except FaultSyntaxError as error:
            raise BadValueError(str(error), "faults") from None
        return json_response({"faults": rates})

    async def health(self, request: web.Request) -> web.Response:
        """Be healthy, or not."""
        healthy = (await _object(request)).get("healthy")
        if not isinstance(healthy, bool):
            raise BadValueError("healthy is true or false", "healthy")
        self._state.healthy = healthy
        return json_response({"healthy": healthy})


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise BadValueError("The body is a JSON object")
    return body


def _whole(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadValueError(f"{name} is a whole number", name)
    return int(text)
