"""What the configuration means, once read: deployments, pools, aliases, prices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from functools import cached_property

from pydantic import SecretStr

from batchyard.common.config.names import WILDCARD, bare, filled, is_pattern, most_specific_first, wildcard_parts

ANY_MODEL = WILDCARD
"""The pool of a fleet that was named by its address alone: it takes whatever model name a client says."""


class BatchMode(StrEnum):
    """How batches are run on a deployment."""

    REQUESTS = "requests"  # line by line
    NATIVE = "native"  # as a batch of the server's own: it has /v1/files and /v1/batches
    AUTO = "auto"  # natively if the server says that it can


@dataclass(frozen=True, slots=True)
class Price:
    """Prices, in the configuration's currency: of a token, a second of busy time, an hour of one GPU. None: not priced.

    The `batch_*` prices are for batches and go before the others; without them the discount applies. A deployment runs
    on so many `gpus`.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    batch_input: Decimal | None = None
    batch_output: Decimal | None = None
    batch_cached: Decimal | None = None
    second: Decimal | None = None
    gpu_hour: Decimal | None = None
    gpus: int = 1


@dataclass(frozen=True, slots=True)
class Deployment:
    """One `model_list` entry: a server that answers for one model, or for those that a pattern matches.

    Attributes:
        id: Stable name, `model_info.id` or a digest of what identifies the entry; keys usage and prices.
        pool: The `model_name` clients use; deployments with the same one share its work.
        model: The name the server itself knows. Its `*` stand for what those of `pool` matched; `*` alone beside a
            `pool` without one passes on the name the client used.
        base_url: Scheme, host and port, with any path prefix, without `/v1`.
        timeout: Seconds for one request.
        max_parallel_requests: Requests in flight at most, None for the runner's default.
        batch_mode: Whether the server is given lines, or whole batches.
        priority: What requests have as `priority`, for a server that schedules by it; the lowest goes first.
    """

    id: str
    pool: str
    model: str
    base_url: str
    api_key: SecretStr | None = None
    timeout: float | None = None
    max_parallel_requests: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    weight: float = 1.0
    batch_mode: BatchMode = BatchMode.REQUESTS
    priority: int | None = None
    price: Price = Price()

    def name_for(self, model: str) -> str:
        """What the server calls the model that clients call `model`."""
        if not is_pattern(self.model):
            return self.model
        parts = wildcard_parts(bare(self.pool), bare(model))
        if parts is None or len(parts) != self.model.count(WILDCARD):
            return bare(model)
        return filled(self.model, parts)

    def public_name(self, served: str) -> str | None:
        """What clients call the model that the server calls `served`; None for one that they cannot reach here."""
        if not is_pattern(self.pool):
            return self.pool if self.name_for(self.pool) == served else None
        parts = wildcard_parts(self.model, served)
        if parts is not None and len(parts) == self.pool.count(WILDCARD):
            return filled(self.pool, parts)
        return served if wildcard_parts(bare(self.pool), served) is not None else None


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name for a model. A hidden one may be used but is not listed."""

    model: str
    hidden: bool = False


@dataclass(frozen=True)
class Config:
    """The whole configuration. `warnings` are sentences about keys that were not understood."""

    deployments: tuple[Deployment, ...] = ()
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    master_key: SecretStr | None = None
    currency: str = "USD"
    batch_discount: Decimal = Decimal(0)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def pools(self) -> Mapping[str, tuple[Deployment, ...]]:
        """Deployments by `model_name`, in the order of the file."""
        pools: dict[str, tuple[Deployment, ...]] = {}
        for deployment in self.deployments:
            pools[deployment.pool] = (*pools.get(deployment.pool, ()), deployment)
        return pools

    def pool_for(self, model: str) -> str | None:
        """The pool that serves `model`, an alias or a name.

        A `model_name` goes before what servers call their model, and both go before patterns, of which the most
        specific one wins. LiteLLM's prefix `hosted_vllm/` may be there or not, on either side.
        """
        name = self._unaliased(model)
        if is_pattern(name) or not bare(name):
            return None
        if name in self.pools:
            return name
        return self._exact_pools.get(bare(name)) or self._pattern_for(name)

    def public_name(self, model: str) -> str:
        """The one name under which `model` is shown and billed, however a client has called it.

        It is the `model_name`; where that is a pattern, the pattern with what the client said in place of its `*`.
        A name that nobody serves is its own.
        """
        pool = self.pool_for(model)
        if pool is None:
            return model
        if not is_pattern(pool):
            return pool
        name = self._unaliased(model)
        parts = wildcard_parts(bare(pool), bare(name))
        return name if parts is None else filled(pool, parts)

    def grants(self, models: Iterable[str], model: str) -> bool:
        """Whether one of `models` stands for `model`, however either is called.

        A name or an alias stands for one model. A pattern stands for each model of which it matches the name or an
        alias: whoever may say the alias may say the name.
        """
        public = self.public_name(model)
        names = (public, bare(public), *self._aliases_of.get(public, ()))
        return any(
            any(wildcard_parts(entry, name) is not None for name in names)
            if is_pattern(entry)
            else self.public_name(entry) == public
            for entry in models
        )

    @cached_property
    def _aliases_of(self) -> Mapping[str, tuple[str, ...]]:
        """Aliases by the public name of the model that they stand for."""
        aliases: dict[str, tuple[str, ...]] = {}
        for alias in self.aliases:
            public = self.public_name(alias)
            aliases[public] = (*aliases.get(public, ()), alias)
        return aliases

    def _unaliased(self, model: str) -> str:
        """What an alias stands for, with or without the prefix; any other name is itself."""
        if model in self.pools:
            return model
        name = model if model in self.aliases else bare(model)
        if name not in self.aliases or name in self.pools:
            return model
        seen = set()
        while name in self.aliases and name not in seen:
            seen.add(name)
            name = self.aliases[name].model
        return name

    @cached_property
    def _exact_pools(self) -> Mapping[str, str]:
        """Pools without wildcards by every bare name they have; the first in the file wins."""
        names: dict[str, str] = {}
        exact = [deployment for deployment in self.deployments if not is_pattern(deployment.pool)]
        for deployment in exact:
            names.setdefault(bare(deployment.pool), deployment.pool)
        for deployment in exact:
            if not is_pattern(deployment.model):
                names.setdefault(deployment.model, deployment.pool)
        return names

    @cached_property
    def _patterns(self) -> list[str]:
        return most_specific_first(name for name in self.pools if is_pattern(name))

    def _pattern_for(self, name: str) -> str | None:
        as_said = ((pattern, pattern) for pattern in self._patterns)
        without_prefix = ((pattern, bare(pattern)) for pattern in self._patterns)
        for pool, pattern in (*as_said, *without_prefix):
            matches = wildcard_parts(pattern, name) is not None or wildcard_parts(pattern, bare(name)) is not None
            if matches and all(deployment.name_for(name) for deployment in self.pools[pool]):
                return pool
        return None
