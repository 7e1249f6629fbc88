"""Every stream, bucket and consumer, with its settings, in one place.

Any service may declare the whole topology at its start, unless its settings leave that to `batchyard topology`:
declaring is idempotent, and a setting that changed here is brought to the server, which would otherwise keep the old
one silently.
"""

import hashlib
from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, BadRequestError

from batchyard.common import subjects
from batchyard.common.contracts.batches import BatchStatus
from batchyard.common.errors import ConfigurationError
from batchyard.common.settings import Settings

EVENTS = "EVENTS"
WORK = "WORK"
STEPS = "STEPS"
WEBHOOKS = "WEBHOOKS"

FILES_BUCKET = "files"
UPLOADS_BUCKET = "uploads"
PARTS_BUCKET = "upload_parts"
BATCHES_BUCKET = "batches"
SHARDS_BUCKET = "shards"
PROGRESS_BUCKET = "progress"
CREATIONS_BUCKET = "creations"
ENQUEUED_BUCKET = "enqueued"
STORAGE_BUCKET = "storage"
KEYS_BUCKET = "keys"
TEAMS_BUCKET = "teams"
WEBHOOKS_BUCKET = "webhooks"
BUCKETS = (
    FILES_BUCKET,
    UPLOADS_BUCKET,
    PARTS_BUCKET,
    BATCHES_BUCKET,
    SHARDS_BUCKET,
    PROGRESS_BUCKET,
    KEYS_BUCKET,
    TEAMS_BUCKET,
    WEBHOOKS_BUCKET,
    ENQUEUED_BUCKET,
    STORAGE_BUCKET,
)

OWNED_STREAMS = {"batch-runner": (EVENTS, WORK, STEPS), "gateway": (WEBHOOKS,)}
OWNED_BUCKETS = {
    "file-store": (FILES_BUCKET, UPLOADS_BUCKET, PARTS_BUCKET, STORAGE_BUCKET),
    "batch-runner": (BATCHES_BUCKET, SHARDS_BUCKET, PROGRESS_BUCKET, CREATIONS_BUCKET, ENQUEUED_BUCKET),
    "gateway": (KEYS_BUCKET, TEAMS_BUCKET, WEBHOOKS_BUCKET),
}
"""Whose they are: nobody else writes there."""

WATCHED_BUCKETS = dict.fromkeys(("file-store", "batch-runner", "billing"), (TEAMS_BUCKET,))
"""Whose records a service mirrors that are another's."""

STEPS_CONSUMER = "steps"
BILLING_CONSUMER = "billing"
WEBHOOKS_CONSUMER = "webhooks"
DELIVERIES_CONSUMER = "deliveries"

_NAME_TAKEN = 10058
_NO_REPLICAS = 10074
_NO_PEERS = 10005
_NO_ROOM = 10047
_OTHER_STORAGE = 10052
_UNLIMITED = -1
_DEDUPE_WINDOW = 120.0


class TooFewServers(ConfigurationError):
    """The cluster has fewer servers than copies are wanted: all that are ever to come, or those that came first."""

    def __init__(self, replicas: int) -> None:
        super().__init__(
            f"BATCHYARD_NATS_REPLICAS is {replicas}, but the NATS cluster has fewer than {replicas} servers with "
            "JetStream: start as many, or set it to how many there are"
        )


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer and the stream it reads."""

    stream: str
    config: ConsumerConfig

    @property
    def name(self) -> str:
        assert self.config.durable_name is not None
        return self.config.durable_name


def streams(settings: Settings) -> list[StreamConfig]:
    """The streams, buckets included: a bucket is a stream by another name."""
    return [
        StreamConfig(
            name=EVENTS,
            description="Facts about batches and budgets",
            subjects=[subjects.ALL_EVENTS],
            retention=RetentionPolicy.LIMITS,
            max_age=settings.events_max_age,
            max_bytes=settings.events_max_bytes or _UNLIMITED,
            storage=StorageType(settings.nats_storage),
            num_replicas=settings.nats_replicas,
            duplicate_window=_DEDUPE_WINDOW,
        ),
        # A shard that still waits or runs keeps its message, so publishing it again is refused: dispatch is idempotent.
        _queue(WORK, "Shards to execute, by pool", subjects.ALL_WORK, settings).evolve(
            discard=DiscardPolicy.NEW, discard_new_per_subject=True
        ),
        # A newer wish to move a batch replaces one that still waits, so that none is lost and none piles up.
        _queue(STEPS, "Batches to move on", subjects.ALL_STEPS, settings).evolve(discard=DiscardPolicy.OLD),
        # A delivery that still waits keeps its message: an event that is read again adds none.
        _queue(WEBHOOKS, "Events to deliver to the endpoints of webhooks", subjects.ALL_HOOKS, settings).evolve(
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_bytes=settings.webhooks_max_bytes or _UNLIMITED,
        ),
        *(_bucket(name, settings) for name in BUCKETS),
        # What a repeated wish for a batch is known by; it forgets by itself.
        _bucket(CREATIONS_BUCKET, settings).evolve(
            max_age=settings.idempotency_max_age,
            duplicate_window=min(_DEDUPE_WINDOW, settings.idempotency_max_age),
        ),
    ]


def _queue(name: str, description: str, subject: str, settings: Settings) -> StreamConfig:
    return StreamConfig(
        name=name,
        description=description,
        subjects=[subject],
        retention=RetentionPolicy.WORK_QUEUE,
        max_msgs_per_subject=1,
        storage=StorageType(settings.nats_storage),
        num_replicas=settings.nats_replicas,
        duplicate_window=_DEDUPE_WINDOW,
    )


def _bucket(name: str, settings: Settings) -> StreamConfig:
    """A KV bucket as nats-py would make it (ADR-8), read through the leader, so that reads see finished writes."""
    return StreamConfig(
        name=f"KV_{name}",
        subjects=[f"$KV.{name}.>"],
        storage=StorageType(settings.nats_storage),
        num_replicas=settings.nats_replicas,
        max_msgs_per_subject=1,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_direct=False,
        duplicate_window=_DEDUPE_WINDOW,
        max_consumers=-1,
        max_msgs=_UNLIMITED,
        max_bytes=settings.nats_bucket_bytes or _UNLIMITED,
    )


def work_consumer(pool: str, settings: Settings) -> Consumer:
    """The consumer of one pool's shards. Redelivery is judged by the runner, so the server sets no limit."""
    return _queue_consumer(WORK, f"pool-{_short_token(pool)}", subjects.work_filter(pool), settings)


def native_consumer(pool: str, settings: Settings) -> Consumer:
    """The consumer of those batches of a pool that its servers run as their own."""
    return _queue_consumer(WORK, f"native-{_short_token(pool)}", subjects.native_work_filter(pool), settings)


def _short_token(pool: str) -> str:
    token = subjects.encode_token(pool)
    return token if len(token) <= 100 else hashlib.sha256(token.encode()).hexdigest()


def steps_consumer(settings: Settings) -> Consumer:
    return _queue_consumer(STEPS, STEPS_CONSUMER, subjects.ALL_STEPS, settings)


def billing_consumer() -> Consumer:
    """Every terminal batch event, once acknowledged never again."""
    config = ConsumerConfig(
        durable_name=BILLING_CONSUMER,
        ack_policy=AckPolicy.EXPLICIT,
        filter_subjects=_ends_of_batches(),
        ack_wait=30.0,
        max_deliver=-1,
        max_ack_pending=256,
    )
    return Consumer(EVENTS, config)


def webhooks_consumer(settings: Settings) -> Consumer:
    """Every event that an endpoint of webhooks may hear of."""
    config = ConsumerConfig(
        durable_name=WEBHOOKS_CONSUMER,
        ack_policy=AckPolicy.EXPLICIT,
        filter_subjects=[*_ends_of_batches(), subjects.event_filter("budgets", "soft_exceeded")],
        ack_wait=settings.work_ack_wait,
        max_deliver=-1,
        max_ack_pending=256,
    )
    return Consumer(EVENTS, config)


def deliveries_consumer(settings: Settings) -> Consumer:
    """The deliveries that wait. Those that are tried again later count as pending, so there is no bound on these:
    otherwise endpoints that are down would hold up all others."""
    consumer = _queue_consumer(WEBHOOKS, DELIVERIES_CONSUMER, subjects.ALL_HOOKS, settings)
    return Consumer(WEBHOOKS, consumer.config.evolve(max_ack_pending=-1))


def fixed_consumers(settings: Settings) -> dict[str, tuple[Consumer, ...]]:
    """The consumers that do not depend on the models, and are made with the streams, by the services that read them."""
    return {
        "billing": (billing_consumer(),),
        "gateway": (webhooks_consumer(settings), deliveries_consumer(settings)),
    }


def _ends_of_batches() -> list[str]:
    return [subjects.event_filter("batches", status) for status in BatchStatus if status.is_terminal]


def _queue_consumer(stream: str, name: str, subject: str, settings: Settings) -> Consumer:
    config = ConsumerConfig(
        durable_name=name,
        ack_policy=AckPolicy.EXPLICIT,
        filter_subject=subject,
        ack_wait=settings.work_ack_wait,
        max_deliver=-1,
        max_ack_pending=10_000,
    )
    return Consumer(stream, config)


async def declare_streams(js: JetStreamContext, settings: Settings) -> None:
    """Make every stream and bucket exist with the settings above.

    Raises:
        ConfigurationError: The server will never have them so: more copies are wanted than a server that stands alone
            can keep, more room than it has, or another kind of storage than there is data in.
        TooFewServers: The cluster as it is now will not; more servers may be on their way.
    """
    copies = settings.nats_replicas
    hints = {
        _NO_REPLICAS: f"BATCHYARD_NATS_REPLICAS is {copies}, but this NATS server stands alone: set it to 1, or start "
        f"a cluster of {copies} servers",
        _NO_ROOM: "BATCHYARD_NATS_BUCKET_BYTES, BATCHYARD_EVENTS_MAX_BYTES and BATCHYARD_WEBHOOKS_MAX_BYTES want more "
        "room than this NATS server has",
        _OTHER_STORAGE: f"BATCHYARD_NATS_STORAGE is {settings.nats_storage}, and NATS keeps what is there elsewhere",
    }
    for config in streams(settings):
        try:
            await _declare_stream(js, config)
        except APIError as error:
            # With a reason after a comma servers are known that are not there now: those are waited for.
            if error.err_code == _NO_PEERS and "," not in (error.description or ""):
                raise TooFewServers(copies) from error
            if error.err_code not in hints:
                raise
            raise ConfigurationError(hints[error.err_code]) from error


async def _declare_stream(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await js.add_stream(config)
    except BadRequestError as error:
        if error.err_code != _NAME_TAKEN:
            raise
        await js.update_stream(config)


async def declare_consumer(js: JetStreamContext, consumer: Consumer) -> None:
    """Make `consumer` exist with its settings (the server updates one that differs)."""
    await js.add_consumer(consumer.stream, consumer.config)
