"""The composition root: settings in, a web application out."""

from http import HTTPStatus

from aiohttp import web

from batchyard.vllm_sim.endpoints import generation, pooling
from batchyard.vllm_sim.endpoints.control import Control
from batchyard.vllm_sim.endpoints.service import Service
from batchyard.vllm_sim.engine import Engine
from batchyard.vllm_sim.errors import RoutingError
from batchyard.vllm_sim.inference import Inference
from batchyard.vllm_sim.replies import Handler, guarded
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.state import SimState
from batchyard.vllm_sim.work import Endpoint

STATE = web.AppKey("STATE", SimState)

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": generation.chat,
    "/v1/completions": generation.completion,
    "/v1/responses": generation.response,
    "/v1/embeddings": pooling.embeddings,
    "/v1/score": pooling.score,
    "/v1/rerank": pooling.rerank,
    "/v1/pooling": pooling.pooling,
    "/v1/classify": pooling.classify,
    "/score": pooling.score,
    "/rerank": pooling.rerank,
    "/pooling": pooling.pooling,
    "/classify": pooling.classify,
}


def create_app(settings: SimSettings) -> web.Application:
    """Return the simulator's application; its state is `app[STATE]`.

    The server that runs it must cancel handlers whose client has gone (`handler_cancellation` of aiohttp's
    runners), as vLLM does.
    """
    state = SimState(settings)
    app = web.Application(client_max_size=settings.max_body_bytes)
    app[STATE] = state
    engine, service, control = Engine(state), Service(state), Control(state)
    routes: dict[str, tuple[str, Handler]] = {
        path: ("POST", Inference(state, engine, path, endpoint).handle) for path, endpoint in ENDPOINTS.items()
    }
    gets: dict[str, Handler] = {
        "/v1/models": service.models,
        "/health": service.health,
        "/version": service.version,
        "/metrics": service.metrics,
        "/sim/requests": control.requests,
        "/sim/log": control.log,
    }
    posts: dict[str, Handler] = {
        "/sim/reset": control.reset,
        "/sim/faults": control.faults,
        "/sim/health": control.health,
    }
    routes |= {path: ("GET", guarded(handler, settings)) for path, handler in gets.items()}
    routes |= {path: ("POST", guarded(handler, settings)) for path, handler in posts.items()}
    for path, (method, handler) in routes.items():
        resource = app.router.add_resource(path)
        resource.add_route(method, handler)
        resource.add_route("*", guarded(_wrong_method(method), settings))
    app.router.add_route("*", "/{path:.*}", guarded(_not_found, settings))
    return app


def _wrong_method(allowed: str) -> Handler:
    async def refuse(_: web.Request) -> web.StreamResponse:
        raise RoutingError(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": allowed})

    return refuse


async def _not_found(_: web.Request) -> web.StreamResponse:
    raise RoutingError(HTTPStatus.NOT_FOUND)
