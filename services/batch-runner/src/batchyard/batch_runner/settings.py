"""Settings of batch-runner."""

from typing import Annotated

from pydantic import Field

from batchyard.batch_runner.estimate import Rule
from batchyard.batch_runner.retry import Failure, RetryPolicy
from batchyard.common.settings import Settings

MIB = 1024 * 1024


class RunnerSettings(Settings):
    """Limits are per batch, memory bounds per shard, concurrency per process."""

    max_requests: int = Field(default=50_000, ge=1, description="lines in one batch")
    max_line_bytes: int = Field(default=16 * MIB, ge=1024, description="bytes in one line")

    bytes_per_token: float = Field(
        default=4.0, gt=0, description="bytes of a batch's input that are taken for a token, before it has run"
    )
    default_output_tokens: int = Field(
        default=256, ge=0, description="tokens expected in the answer to a line that does not limit them"
    )

    mixed_models: bool = Field(
        default=False, description="whether a batch for which no model was given may name several in its lines"
    )

    validation_timeout: float = Field(default=300.0, gt=0, description="seconds that a dry run may take")
    validation_slots: int = Field(default=2, ge=1, description="dry runs that this process reads at a time")

    shard_lines: int = Field(default=500, ge=1, description="lines in one shard at most")
    shard_lines_shared: int = Field(
        default=2000,
        ge=1,
        description="lines in one shard at most, of a batch whose lines have many beginnings in common",
    )
    shard_bytes: int = Field(default=4 * MIB, ge=1024, description="bytes after which a shard is closed")
    shard_window: int = Field(
        default=16, ge=1, description="shards of one batch queued or running at a time, fewer when other batches wait"
    )
    shards_per_pool: int = Field(
        default=32, ge=1, description="shards of one pool that this process takes, and so the batches it serves at once"
    )
    shards_per_batch: int = Field(default=4, ge=1, description="of those, how many of one batch are worked on at once")
    shard_memory_bytes: int = Field(default=32 * MIB, ge=MIB, description="results of a shard kept in memory at most")
    results_memory_bytes: int = Field(
        default=128 * MIB, ge=MIB, description="results of all running shards kept in memory together"
    )
    head_start: int = Field(
        default=500,
        ge=0,
        description="requests for which a new batch goes ahead of its tenant's others, and a tenant that comes back "
        "ahead of other tenants",
    )

    arrange_prefixes: bool = Field(
        default=True,
        description="whether lines that begin alike are sent one after another, and to the same deployment",
    )
    prefix_affinity: bool = Field(
        default=True, description="of these two, whether they go to the same deployment where a pool has several"
    )
    max_parallel_requests: int = Field(default=512, ge=1, description="requests in flight to one deployment at most")
    adaptive_concurrency: bool = Field(
        default=True,
        description="whether to find by trying how many requests a deployment takes, and to make way for others; "
        "otherwise it always gets as many as it may have",
    )
    initial_parallel_requests: int = Field(
        default=32, ge=1, description="requests in flight to one deployment with which the search begins"
    )
    control_interval: float = Field(
        default=0.25, gt=0, description="seconds between two looks at a deployment's `/metrics`"
    )
    request_timeout: float = Field(default=600.0, gt=0, description="seconds for one answer")
    max_response_bytes: int = Field(default=16 * MIB, ge=1024, description="bytes of one answer at most")
    max_attempts: int = Field(default=5, ge=1, description="times a line is sent before it fails")
    max_throttled: int = Field(default=30, ge=1, description="429 answers a line takes before it fails")
    retry_budgets: dict[Failure, Annotated[int, Field(ge=1)]] = Field(
        default={Failure.TIMED_OUT: 3},
        description="failures of one kind after which a line fails, as JSON; the kinds are the codes of a line's error",
    )
    line_timeout: float | None = Field(
        default=None,
        gt=0,
        description="seconds after which a line is not sent again, waits for its turn or for a server not counted; "
        "absent: as long as its batch has",
    )
    retry_base: float = Field(default=0.5, ge=0, description="seconds: the first retry waits up to this long")
    retry_cap: float = Field(default=30.0, ge=0, description="seconds: no retry waits longer")
    probe_interval: float = Field(default=2.0, gt=0, description="seconds between looks at a server that is down")
    breaker_failures: int = Field(
        default=5, ge=1, description="failures in a row after which a deployment is left alone while others do the work"
    )
    breaker_cooldown_cap: float = Field(
        default=30.0, gt=0, description="seconds: a deployment that fails each time it is tried is left alone no longer"
    )

    flush_interval: float = Field(default=1.0, gt=0, description="seconds between checkpoints of a running shard")
    flush_bytes: int = Field(default=4 * MIB, ge=1024, description="bytes of results that make a checkpoint at once")
    cancel_grace: float = Field(
        default=2.0, ge=0, description="seconds given to requests in flight on cancel or expiry"
    )
    shutdown_grace: float = Field(default=5.0, ge=0, description="seconds given to requests in flight on shutdown")
    settle_patience: float = Field(
        default=5.0, ge=0, description="seconds a cancelled batch waits for runners to hand in their shards"
    )

    native_batches_per_pool: int = Field(
        default=64, ge=1, description="batches of one pool that this process follows on servers which run them whole"
    )
    native_transfers: int = Field(
        default=4,
        ge=1,
        description="of those, how many are sent, and how many fetched, at a time; a fetch takes shard_memory_bytes",
    )
    native_poll_first: float = Field(default=1.0, gt=0, description="seconds until such a server is asked again")
    native_poll_cap: float = Field(default=30.0, gt=0, description="seconds between two such questions at most")
    native_cancel_grace: float = Field(
        default=10.0,
        ge=0,
        description="seconds given to such a server to hand out what it had done, on cancel or expiry",
    )

    step_slots: int = Field(default=8, ge=1, description="batches that this process moves on at a time")
    reconcile_interval: float = Field(default=5.0, gt=0, description="seconds between looks for batches that stand")
    stale_after: float = Field(
        default=15.0, gt=0, description="seconds without change after which a batch is looked at"
    )
    budget_interval: float = Field(
        default=5.0, gt=0, description="seconds between two looks at budgets whose batches pause when they are spent"
    )
    audit_interval: float = Field(
        default=60.0, gt=0, description="seconds between two comparisons of what is counted for limits with the batches"
    )
    batch_retention: float | None = Field(
        default=None,
        ge=86_400,
        description="seconds after its end for which a batch is known, and longer while it has an output or error "
        "file; absent: for ever",
    )
    orphan_sweep_interval: float = Field(
        default=3600.0, gt=0, description="seconds between searches for leftovers, and for batches to forget"
    )
    orphan_min_age: float = Field(default=3600.0, ge=0, description="seconds after which a leftover is one")
    command_timeout: float = Field(default=10.0, gt=0, description="seconds for another service to answer")

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_attempts=self.max_attempts,
            base=self.retry_base,
            cap=self.retry_cap,
            budgets={Failure.THROTTLED: self.max_throttled, **self.retry_budgets},
            max_seconds=self.line_timeout,
        )

    @property
    def estimate(self) -> Rule:
        return Rule(self.bytes_per_token, self.default_output_tokens)
