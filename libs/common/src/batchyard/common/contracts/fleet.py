"""The fleet: the servers as the batch-runners see and drive them."""

from typing import ClassVar, Literal

from batchyard.common.contracts.base import Command, Contract


class ServerLoad(Contract):
    """What a server has said of itself at `at` (Unix seconds): requests that run and wait there, whosever they are, and
    how much of its KV cache is taken, 0 to 1. `others` are those that are not this runner's."""

    at: float
    running: float
    waiting: float
    kv_cache_usage: float | None = None
    others: float


class LimitCut(Contract):
    """The limit was lowered at `at` (Unix seconds), from `before` to `after`."""

    at: float
    reason: str
    before: int
    after: int


class DeploymentCounters(Contract):
    """Attempts since the runner knows the deployment.

    `answered` brought their lines an answer, `refused` a refusal for good, `failed` nothing: those are tried again.
    `throttled` (429, 503) and `timed_out` are among the failed. `taken_back` were ended so that others have the place,
    which may have cost `tokens_lost`, an estimate. `tokens` were generated in answers.
    """

    requests: int
    answered: int
    refused: int
    failed: int
    throttled: int
    timed_out: int
    taken_back: int
    tokens: int
    tokens_lost: int


class DeploymentState(Contract):
    """One deployment.

    `resting` ones are left alone until `rests_until` (Unix seconds), `down` ones until they answer. `circuit` is
    the breaker's state: `half_open` ones get a few requests to prove themselves. `mode` says what
    the limit follows: what the server tells in `/metrics`, the latency alone because it tells nothing, or neither since
    it is `fixed`; None until the server was first looked at. `cuts` are the last ones, the newest first.
    """

    id: str
    model: str
    api_base: str
    status: Literal["up", "resting", "down"]
    rests_until: float | None = None
    circuit: Literal["closed", "open", "half_open"] = "closed"
    limit: int
    max_parallel_requests: int
    in_flight: int
    mode: Literal["metrics", "latency", "fixed"] | None = None
    reason: str | None = None
    load: ServerLoad | None = None
    cuts: tuple[LimitCut, ...] = ()
    counters: DeploymentCounters


class RunnerView(Contract):
    """All deployments, as one `runner` sees them."""

    runner: str
    data: list[DeploymentState]


class FleetState(Contract):
    """All deployments.

    In `data` what the runners have of each is added up: limits, requests in flight, counters. `load` is the newest, its
    `others` those that are no runner's. `runners` holds what each of them sees, since each drives the deployments by
    itself. `runner` is the one that has asked the others.
    """

    object: Literal["fleet"] = "fleet"
    runner: str
    data: list[DeploymentState]
    runners: tuple[RunnerView, ...] = ()


class GetFleet(Command[FleetState]):
    """How the servers are, and how they are driven."""

    noun: ClassVar = "fleet"
    verb: ClassVar = "get"
    result: ClassVar = FleetState
