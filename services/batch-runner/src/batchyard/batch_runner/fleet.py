"""All pools of this process, and the models they serve."""

import asyncio
import time
from collections.abc import Callable, Iterable

from batchyard.batch_runner.breaker import BreakerRules
from batchyard.batch_runner.part import Part
from batchyard.batch_runner.pool import Pool
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.upstream import Upstream
from batchyard.common.clock import Clock
from batchyard.common.config import Config, Deployment, is_pattern
from batchyard.common.contracts.models import Model, ModelList
from batchyard.common.contracts.usage import Work
from batchyard.common.pricing import Cost, cost_of_batch

_MODELS_FRESH = 15.0
_STARTED = int(time.time())


class Fleet:
    """The configured deployments as pools by model name. `use` brings in another configuration.

    Attributes:
        news: Set when a pool has something to do that had nothing.
    """

    def __init__(self, config: Config, settings: RunnerSettings, upstream: Upstream, clock: Clock) -> None:
        self._config = config
        self._settings = settings
        self._upstream = upstream
        self._clock = clock
        self._served: dict[tuple[Deployment, ...], tuple[float, list[list[str] | None]]] = {}
        self._part_in: Callable[[str], Part] = lambda _: Part()
        self.pools: dict[str, Pool] = {}
        self.news = asyncio.Event()
        self._open_pools()

    def use(self, config: Config) -> None:
        """Go over to `config`. What it leaves as it was keeps its state; a pool that it has no more hands out nothing
        from now on."""
        self._config = config
        self._served.clear()
        for name in self.pools.keys() - config.pools.keys():
            self.pools.pop(name).retire()
        for name, pool in self.pools.items():
            pool.update(config.pools[name])
        self._open_pools()

    @property
    def at_work(self) -> frozenset[str]:
        """The pools that have something to do here."""
        return frozenset(name for name, pool in self.pools.items() if pool.is_at_work)

    def divide(self, part_in: Callable[[str], Part]) -> None:
        """Keep to this part of the limits of each pool from now on."""
        self._part_in = part_in
        for name, pool in self.pools.items():
            pool.divide(part_in(name))

    async def pool_for(self, model: str) -> str | None:
        """The pool that serves `model`, or None. Servers behind a pattern are asked what they serve; while none of them
        can be asked, they are taken to serve whatever a client says."""
        config = self._config
        name = config.pool_for(model)
        if name is None or not is_pattern(name):
            return name
        public = config.public_name(model)
        known = [
            deployment.name_for(public) in names
            for deployment, names in await self._served_by(config.pools[name])
            if names is not None
        ]
        return name if any(known) or not known else None

    def public_name(self, model: str) -> str:
        """The one name under which `model` is shown and billed, of the several that clients may use."""
        return self._config.public_name(model)

    def grants(self, models: Iterable[str], model: str) -> bool:
        """Whether names, aliases or patterns in `models` stand for `model`, among others."""
        return self._config.grants(models, model)

    def cost_of(self, work: Iterable[Work], model: str | None) -> Cost | None:
        """What a batch of `model` used, at the prices in force; None when none of it has a price."""
        return cost_of_batch(work, model, self._config)

    async def list_models(self) -> ModelList:
        """The models with a name of their own, the aliases that are not hidden, and what is served behind patterns."""
        config = self._config
        names = [name for name in config.pools if not is_pattern(name)]
        names += [alias for alias, target in config.aliases.items() if not target.hidden]
        for pool in filter(is_pattern, config.pools):
            for deployment, served in await self._served_by(config.pools[pool]):
                public = map(deployment.public_name, served or ())
                names += [name for name in public if name is not None and config.pool_for(name) == pool]
        return ModelList(
            data=[Model(id=name, created=_STARTED, owned_by="hosted_vllm") for name in dict.fromkeys(names)]
        )

    def in_flight(self, base_url: str) -> int:
        """Requests that this process has on a server, through whichever pools."""
        members = (member for pool in self.pools.values() for member in pool.members)
        return sum(member.in_flight for member in members if member.deployment.base_url == base_url)

    async def close(self) -> None:
        for pool in self.pools.values():
            await pool.close()

    def _open_pools(self) -> None:
        for name, deployments in self._config.pools.items():
            if name not in self.pools:
                self.pools[name] = Pool(
                    name,
                    deployments,
                    self._settings.max_parallel_requests,
                    self._upstream,
                    self._clock,
                    self._settings.probe_interval,
                    self._settings.head_start,
                    self._settings.initial_parallel_requests if self._settings.adaptive_concurrency else None,
                    BreakerRules(self._settings.breaker_failures, self._settings.breaker_cooldown_cap),
                    self.news.set,
                )
                self.pools[name].divide(self._part_in(name))

    async def _served_by(self, deployments: tuple[Deployment, ...]) -> list[tuple[Deployment, list[str] | None]]:
        """The names that each deployment says it serves; None for one that cannot say at the moment."""
        now = self._clock.monotonic()
        asked_at, answers = self._served.get(deployments, (now, [None]))
        if None in answers or now - asked_at > _MODELS_FRESH:
            answers = await asyncio.gather(*map(self._upstream.models, deployments))
            self._served[deployments] = (now, answers)
        return list(zip(deployments, answers, strict=True))
