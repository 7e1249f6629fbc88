"""All pools of this process, and the models they serve."""

import time
from collections.abc import Mapping

from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.upstream import Upstream
from batchyard.common.clock import Clock
from batchyard.common.config import ANY_MODEL, Config
from batchyard.common.contracts.models import Model, ModelList

_MODELS_FRESH = 15.0
_STARTED = int(time.time())


class Fleet:
    """The configured deployments as pools by model name."""

    def __init__(self, config: Config, settings: RunnerSettings, upstream: Upstream, clock: Clock) -> None:
        self._config = config
        self._upstream = upstream
        self._clock = clock
        self.pools: Mapping[str, Pool] = {
            name: Pool(name, deployments, settings.max_parallel_requests, upstream, clock, settings.probe_interval)
            for name, deployments in config.pools.items()
        }
        self._served: tuple[float, list[str] | None] | None = None

    async def pool_for(self, model: str) -> str | None:
        """The pool that serves `model`, or None. A server known by its address alone is asked what it serves;
        while it cannot be asked, it is taken to serve whatever a client says."""
        name = self._config.pool_for(model)
        if name == ANY_MODEL:
            served = await self._served_by_any()
            if served is not None and model.removeprefix("hosted_vllm/") not in served:
                return None
        return name

    async def list_models(self) -> ModelList:
        names = [name for name in self.pools if name != ANY_MODEL]
        if ANY_MODEL in self.pools:
            names += [name for name in await self._served_by_any() or [] if name not in names]
        return ModelList(data=[Model(id=name, created=_STARTED, owned_by="hosted_vllm") for name in names])

    async def close(self) -> None:
        for pool in self.pools.values():
            await pool.close()

    async def _served_by_any(self) -> list[str] | None:
        now = self._clock.monotonic()
        if self._served is None or now - self._served[0] > _MODELS_FRESH or self._served[1] is None:
            self._served = (now, await self._ask_any())
        return self._served[1]

    async def _ask_any(self) -> list[str] | None:
        answers = [await self._upstream.models(member.deployment) for member in self.pools[ANY_MODEL].members]
        known = [names for names in answers if names is not None]
        return [name for names in known for name in names] if known else None
