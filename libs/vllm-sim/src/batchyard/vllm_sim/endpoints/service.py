"""What vLLM tells about itself: health, version, models, metrics."""

import time
from typing import Any

from aiohttp import web

from batchyard.vllm_sim.identity import NAME, SERVER, VERSION
from batchyard.vllm_sim.metrics import EngineCollector, exposition
from batchyard.vllm_sim.replies import json_response
from batchyard.vllm_sim.state import SimState

_METRICS_HEADERS = {"Content-Type": "text/plain; version=1.0.0; charset=utf-8", "Server": SERVER}


class Service:
    """The handlers of the GET routes."""

    def __init__(self, state: SimState) -> None:
        self._state = state
        self._collector = EngineCollector(state.settings, state.capacity, state.counters)
        self._started = int(time.time())

    async def health(self, _: web.Request) -> web.Response:
        """Answer 200 while healthy, 503 otherwise, with no body."""
        return web.Response(status=200 if self._state.healthy else 503, headers={"Server": SERVER})

    async def version(self, _: web.Request) -> web.Response:
        """Answer with the simulator's version, which says that it is not vLLM's."""
        return json_response({"version": f"{VERSION}+{NAME.replace('-', '.')}", "simulator": NAME})

    async def models(self, _: web.Request) -> web.Response:
        """List the served names."""
        names = self._state.settings.models
        return json_response({"object": "list", "data": [self._card(name, names[0]) for name in names]})

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer in Prometheus' text format."""
        return web.Response(body=exposition(self._collector), headers=_METRICS_HEADERS)

    def _card(self, name: str, root: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": NAME,
            "root": root,
            "parent": None,
            "max_model_len": self._state.settings.max_model_len,
            "permission": [],
        }
