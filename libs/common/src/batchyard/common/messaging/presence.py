"""Whether the streams, buckets and consumers are there that a service works with, where it may not make them itself."""

from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from batchyard.common.errors import ConfigurationError
from batchyard.common.logs import get_logger
from batchyard.common.messaging.topology import (
    OWNED_BUCKETS,
    OWNED_STREAMS,
    WATCHED_BUCKETS,
    Consumer,
    declare_consumer,
    fixed_consumers,
    streams,
)
from batchyard.common.settings import Settings

_log = get_logger(__name__)


class TopologyMissing(ConfigurationError):
    """Somebody has to declare the topology first."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(
            f"NATS has no {', '.join(missing)}: run `batchyard topology` once, or let this service declare them with "
            "BATCHYARD_DECLARE_TOPOLOGY=true"
        )


async def check_topology(js: JetStreamContext, settings: Settings, service: str) -> None:
    """See that everything is there that `service` works with, and log what is set up otherwise than this code has it.

    Raises:
        TopologyMissing: It says what is not.
    """
    consumers = fixed_consumers(settings).get(service, ())
    names = {*OWNED_STREAMS.get(service, ()), *(consumer.stream for consumer in consumers)}
    names |= {f"KV_{bucket}" for buckets in (OWNED_BUCKETS, WATCHED_BUCKETS) for bucket in buckets.get(service, ())}
    missing = []
    for wanted in streams(settings):
        if wanted.name not in names:
            continue
        try:
            found = await js.stream_info(str(wanted.name))
        except NotFoundError:
            missing.append(f"stream {wanted.name}")
            continue
        if differing := differences(found.config, wanted):
            hint = "run `batchyard topology` of this version, with the same settings as the services"
            _log.warning("topology.differs", stream=wanted.name, settings=differing, hint=hint)
    for consumer in () if missing else consumers:
        missing += await _missing_consumer(js, consumer)
    if missing:
        _log.warning("topology.missing", missing=missing)
        raise TopologyMissing(missing)


async def bind_consumer(js: JetStreamContext, consumer: Consumer, settings: Settings) -> None:
    """Make `consumer` exist, or see that it does where others make it.

    Raises:
        TopologyMissing: It does not.
    """
    if settings.declare_topology:
        await declare_consumer(js, consumer)
    elif missing := await _missing_consumer(js, consumer):
        raise TopologyMissing(missing)


async def _missing_consumer(js: JetStreamContext, consumer: Consumer) -> list[str]:
    try:
        await js.consumer_info(consumer.stream, consumer.name)
    except NotFoundError:
        return [f"consumer {consumer.name} of the stream {consumer.stream}"]
    return []


def differences(found: StreamConfig, wanted: StreamConfig) -> list[str]:
    """The settings that `wanted` gives and `found` has otherwise."""
    has = found.as_dict()
    return [name for name, value in wanted.as_dict().items() if value is not None and has.get(name) != value]
