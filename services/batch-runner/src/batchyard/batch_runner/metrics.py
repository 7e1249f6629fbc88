"""The fleet as Prometheus metrics: read off what the runner knows anyway, whenever somebody looks.

Labels are what the configuration names, and words of the code: how many series there are depends on neither batches
nor tenants.
"""

from collections.abc import Iterable, Iterator

from nats.js import JetStreamContext
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from batchyard.batch_runner.breaker import Circuit
from batchyard.batch_runner.fleet import Fleet
from batchyard.batch_runner.member import Member
from batchyard.batch_runner.open_shards import OpenShards
from batchyard.batch_runner.retry import Failure
from batchyard.batch_runner.segments import ERROR_KINDS, OUTPUT_KINDS
from batchyard.batch_runner.settings import RunnerSettings
from batchyard.batch_runner.standings import Standings
from batchyard.batch_runner.verdict import Mode
from batchyard.common.clock import Clock
from batchyard.common.messaging.topology import work_consumer

_DEPLOYMENT = ("pool", "deployment")
_MODES = ("metrics", "latency", "fixed", "unknown")
_TOLD = ("requests", "kv_cache_usage", "preemptions")

Rows = Iterable[tuple[tuple[str, ...], float]]


class FleetMetrics(Collector):
    """Every deployment and pool of this process. `refresh` asks NATS how many shards wait."""

    def __init__(
        self,
        fleet: Fleet,
        open_shards: OpenShards,
        standings: Standings,
        js: JetStreamContext,
        settings: RunnerSettings,
        clock: Clock,
    ) -> None:
        self._fleet = fleet
        self._open_shards = open_shards
        self._standings = standings
        self._js = js
        self._settings = settings
        self._clock = clock
        self._queued: dict[str, int] = {}

    async def refresh(self) -> None:
        """Look at the queue of every pool."""
        self._queued = {}
        for pool in list(self._fleet.pools):
            consumer = work_consumer(pool, self._settings)
            info = await self._js.consumer_info(consumer.stream, consumer.name)
            self._queued[pool] = info.num_pending or 0

    def collect(self) -> Iterator[Metric]:
        yield from self._of_pools()
        yield from self._of_limits()
        yield from self._of_servers()
        yield from self._of_requests()

    def _of_pools(self) -> Iterator[Metric]:
        pools = self._fleet.pools
        yield _gauge(
            "pool_shards_queued",
            "Shards that wait for a runner, whichever; the same from every runner",
            ("pool",),
            (((name,), count) for name, count in self._queued.items()),
        )
        undispatched = self._standings.undispatched()
        yield _gauge(
            "pool_shards_undispatched",
            "Shards whose batch waits for its turn to queue them; the same from every runner",
            ("pool",),
            (((name,), undispatched[name]) for name in pools),
        )
        yield _gauge(
            "pool_shards_open",
            "Shards that this runner works on",
            ("pool",),
            (((name,), self._open_shards.working[name]) for name in pools),
        )
        yield _gauge(
            "pool_lines_waiting",
            "Lines in this runner that wait for a place on a deployment",
            ("pool",),
            (((name,), pool.waiting) for name, pool in pools.items()),
        )
        yield _counter(
            "pool_lines",
            "Lines that got their result in this runner: an answer, or an error for good",
            ("pool", "result"),
            (
                ((name, result), sum(pool.results[kind] for kind in kinds))
                for name, pool in pools.items()
                for result, kinds in (("completed", OUTPUT_KINDS), ("failed", ERROR_KINDS))
            ),
        )

    def _of_limits(self) -> Iterator[Metric]:
        members = self._members()
        yield _gauge(
            "deployment_limit",
            "Requests in flight at most for now",
            _DEPLOYMENT,
            ((key, m.limit) for key, m in members),
        )
        yield _gauge(
            "deployment_ceiling",
            "Requests in flight at most ever",
            _DEPLOYMENT,
            ((key, m.ceiling) for key, m in members),
        )
        yield _gauge(
            "deployment_in_flight", "Requests in flight", _DEPLOYMENT, ((key, m.in_flight) for key, m in members)
        )
        yield _gauge(
            "deployment_mode",
            "1 for what the limit follows",
            (*_DEPLOYMENT, "mode"),
            (((*key, mode), float(mode == _mode(m))) for key, m in members for mode in _MODES),
        )
        yield _gauge(
            "deployment_metrics_missing",
            "1 for what the limit cannot follow, since the server does not tell it",
            (*_DEPLOYMENT, "what"),
            (((*key, what), float(what in _untold(m))) for key, m in members if m.steering for what in _TOLD),
        )
        yield _counter(
            "deployment_limit_cuts",
            "Times that the limit was lowered",
            (*_DEPLOYMENT, "reason"),
            (((*key, reason.value), count) for key, m in members for reason, count in m.cuts.items()),
        )

    def _of_servers(self) -> Iterator[Metric]:
        members, now = self._members(), self._clock.monotonic()
        yield _gauge(
            "deployment_up", "0 while it does not answer", _DEPLOYMENT, ((key, not m.down) for key, m in members)
        )
        yield _gauge(
            "deployment_circuit",
            "1 for the state of the circuit breaker",
            (*_DEPLOYMENT, "state"),
            (((*key, one.value), float(one is m.breaker.state(now))) for key, m in members for one in Circuit),
        )
        yield _counter(
            "deployment_circuit_opened",
            "Times that the circuit breaker opened",
            _DEPLOYMENT,
            ((key, m.breaker.times_opened) for key, m in members),
        )
        seen = [(key, m.steering, m.steering.load) for key, m in members if m.steering and m.steering.load]
        yield _gauge(
            "deployment_server_running",
            "Requests that run on the server, whosever, by its own word when it was last asked",
            _DEPLOYMENT,
            ((key, load.running) for key, _, load in seen),
        )
        yield _gauge(
            "deployment_server_waiting",
            "Requests that wait on the server, whosever, by its own word when it was last asked",
            _DEPLOYMENT,
            ((key, load.waiting) for key, _, load in seen),
        )
        yield _gauge(
            "deployment_server_kv_cache_usage_ratio",
            "The share of the server's KV cache that is taken, by its own word when it was last asked",
            _DEPLOYMENT,
            ((key, load.kv_usage) for key, _, load in seen if load.kv_usage is not None),
        )
        yield _gauge(
            "deployment_server_others",
            "Requests on the server that are not this runner's",
            _DEPLOYMENT,
            ((key, steering.others) for key, steering, _ in seen),
        )

    def _of_requests(self) -> Iterator[Metric]:
        members = self._members()
        outcomes = ("answered", "refused", "failed", "taken_back")
        yield _counter(
            "deployment_requests",
            "Requests that ended: with the line's answer, with a refusal for good, with nothing, or taken back by us",
            (*_DEPLOYMENT, "outcome"),
            (((*key, one), getattr(m.flights.traffic, one)) for key, m in members for one in outcomes),
        )
        yield _counter(
            "deployment_failures",
            "Requests that brought their line nothing, by kind; most are sent again",
            (*_DEPLOYMENT, "kind"),
            (((*key, one.value), m.flights.failures[one]) for key, m in members for one in Failure),
        )
        answers = HistogramMetricFamily(
            "batchyard_deployment_answer_seconds",
            "What the answers took, each from when its request was sent",
            labels=_DEPLOYMENT,
        )
        for key, m in members:
            answers.add_metric(key, m.flights.answer_times.at_most(), m.flights.traffic.seconds)
        yield answers
        yield _counter(
            "deployment_generated_tokens",
            "Tokens generated in answers",
            _DEPLOYMENT,
            ((key, m.flights.traffic.tokens) for key, m in members),
        )
        yield _counter(
            "deployment_lost_tokens",
            "Tokens generated in requests that were taken back, an estimate",
            _DEPLOYMENT,
            ((key, m.flights.traffic.tokens_lost) for key, m in members),
        )

    def _members(self) -> list[tuple[tuple[str, str], Member]]:
        return [
            ((name, member.deployment.id), member)
            for name, pool in self._fleet.pools.items()
            for member in pool.members
        ]


def _mode(member: Member) -> str:
    if member.steering is None:
        return "fixed"
    return "unknown" if member.steering.mode is None else member.steering.mode.value


def _untold(member: Member) -> tuple[str, ...]:
    return _TOLD if _mode(member) == Mode.LATENCY else member.steering.untold if member.steering else ()


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"batchyard_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(f"batchyard_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
