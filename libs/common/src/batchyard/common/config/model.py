"""What the configuration means, once read: deployments, pools, prices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property

from pydantic import SecretStr

ANY_MODEL = "*"
"""The pool of a fleet that was named by its address alone: it takes whatever model name a client says."""


@dataclass(frozen=True, slots=True)
class Price:
    """Prices per token, in the configuration's currency. None: not priced.

    The `batch_*` prices are for batches and go before the others; without them the discount applies.
    """

    input: Decimal | None = None
    output: Decimal | None = None
    cached: Decimal | None = None
    batch_input: Decimal | None = None
    batch_output: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """One `model_list` entry: a server that answers for one model.

    Attributes:
        id: Stable name, `model_info.id` or a digest of what identifies the entry; keys usage and prices.
        pool: The `model_name` clients use; deployments with the same one share its work.
        model: The name the server itself knows, or None to pass on the name the client used.
        base_url: Scheme, host and port, with any path prefix, without `/v1`.
        timeout: Seconds for one request.
        max_parallel_requests: Requests in flight at most, None for the runner's default.
    """

    id: str
    pool: str
    model: str | None
    base_url: str
    api_key: SecretStr | None = None
    timeout: float | None = None
    max_parallel_requests: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    weight: float = 1.0
    price: Price = Price()


@dataclass(frozen=True)
class Config:
    """The whole configuration. `warnings` are sentences about keys that were not understood."""

    deployments: tuple[Deployment, ...] = ()
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
        """The pool that serves `model`: by its own name, by a name its servers know, or the one that takes any."""
        if model in self.pools and model != ANY_MODEL:
            return model
        served = model.removeprefix("hosted_vllm/")
        for deployment in self.deployments:
            if served in (deployment.model, deployment.pool):
                return deployment.pool
        return ANY_MODEL if ANY_MODEL in self.pools else None
