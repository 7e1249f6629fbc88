"""How many webhooks wait, as a metric."""

from collections.abc import Iterator

from nats.js import JetStreamContext
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batchyard.common.messaging.topology import Consumer


class Backlog(Collector):
    """Shows what NATS says, the same in every gateway; nothing while it does not answer."""

    def __init__(self, js: JetStreamContext, consumer: Consumer) -> None:
        self._js = js
        self._consumer = consumer
        self._waiting: int | None = None

    async def refresh(self) -> None:
        self._waiting = None
        info = await self._js.consumer_info(self._consumer.stream, self._consumer.name)
        self._waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "batchyard_webhooks_waiting", "Webhooks that are not delivered yet, those that are tried again included"
        )
        if self._waiting is not None:
            family.add_metric([], self._waiting)
        yield family
