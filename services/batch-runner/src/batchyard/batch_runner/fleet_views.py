"""The fleet as all runners see it together: each is asked for its view, and the views are added up.

Those that are known to be there are waited for, for a second at most. One that is gone does not answer, and so is not
there.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from pydantic import ValidationError

from batchyard.batch_runner.presence import Presence
from batchyard.common import subjects
from batchyard.common.clock import Clock
from batchyard.common.contracts.fleet import DeploymentCounters, DeploymentState, FleetState, RunnerView, ServerLoad
from batchyard.common.errors import ServiceUnavailable
from batchyard.common.logs import get_logger

_DEADLINE = 1.0
_CUTS_SHOWN = 10
_log = get_logger(__name__)


class FleetViews:
    """Answers with this process' view, and collects those of all.

    Args:
        view: What this process sees now.
    """

    def __init__(self, connection: Client, presence: Presence, view: Callable[[], RunnerView], clock: Clock) -> None:
        self._connection = connection
        self._presence = presence
        self._view = view
        self._clock = clock
        self._collecting: asyncio.Task[list[RunnerView]] | None = None

    async def listen(self) -> None:
        """Tell whoever asks all runners."""
        await self._connection.subscribe(subjects.FLEET_CONTROL, cb=self._tell)

    async def collect(self) -> FleetState:
        """The views of all runners, and what they come to together. Those who ask at the same time share the asking.

        Raises:
            ServiceUnavailable: NATS is away.
        """
        if self._collecting is None:
            self._collecting = asyncio.create_task(self._ask_all())
            self._collecting.add_done_callback(self._collected)
        try:
            views = await asyncio.shield(self._collecting)
        except (Error, OSError) as error:
            raise ServiceUnavailable("The runners cannot be asked at the moment. Please retry shortly.") from error
        return FleetState(runner=self._view().runner, data=together(views), runners=tuple(views))

    def _collected(self, _task: "asyncio.Task[list[RunnerView]]") -> None:
        self._collecting = None

    async def _tell(self, message: Msg) -> None:
        if message.reply:
            with suppress(Error, OSError):  # whoever asked goes on without it
                await message.respond(self._view().model_dump_json(exclude_none=True).encode())

    async def _ask_all(self) -> list[RunnerView]:
        own = self._view()
        views = {own.runner: own}
        inbox = self._connection.new_inbox()
        answers = await self._connection.subscribe(inbox)
        try:
            await self._connection.publish(subjects.FLEET_CONTROL, b"", reply=inbox)
            ends = self._clock.monotonic() + _DEADLINE
            while self._presence.others - views.keys() and (left := ends - self._clock.monotonic()) > 0:
                try:
                    message = await answers.next_msg(timeout=left)
                except TimeoutError:
                    break
                if (view := _read(message.data)) is not None:
                    views[view.runner] = view
        finally:
            await answers.unsubscribe()
        return sorted(views.values(), key=lambda view: view.runner)


def together(views: list[RunnerView]) -> list[DeploymentState]:
    """What several runners' views of each deployment come to, in the order in which they name them."""
    states: dict[tuple[str, str], list[DeploymentState]] = {}
    for view in views:
        for state in view.data:
            states.setdefault((state.model, state.id), []).append(state)
    return [_sum(several) for several in states.values()]


def _sum(states: list[DeploymentState]) -> DeploymentState:
    """Limits, requests and counters are added up; a deployment is as well as the runner finds it that finds it best."""
    if len(states) == 1:
        return states[0]
    newest = max(states, key=lambda state: state.load.at if state.load else 0.0)
    best = min(states, key=lambda state: ("up", "resting", "down").index(state.status))
    circuit = min((state.circuit for state in states), key=("closed", "half_open", "open").index)
    in_flight = sum(state.in_flight for state in states)
    at_work = [state for state in states if state.in_flight] or states[:1]  # others would get parts of this
    most = sum(state.max_parallel_requests for state in at_work)
    cuts = sorted((cut for state in states for cut in state.cuts), key=lambda cut: cut.at, reverse=True)
    counters = (state.counters.model_dump() for state in states)
    total: dict[str, int] = {}
    for one in counters:
        total = {name: total.get(name, 0) + count for name, count in one.items()}
    return newest.model_copy(
        update={
            "status": best.status,
            "rests_until": best.rests_until,
            "circuit": circuit,
            "limit": min(sum(state.limit for state in states), most),
            "max_parallel_requests": most,
            "in_flight": in_flight,
            "load": newest.load and _without(newest.load, in_flight),
            "cuts": tuple(cuts[:_CUTS_SHOWN]),
            "counters": DeploymentCounters(**total),
        }
    )


def _without(load: ServerLoad, in_flight: int) -> ServerLoad:
    """A load whose others are those that are no runner's."""
    return load.model_copy(update={"others": max(0.0, load.running + load.waiting - in_flight)})


def _read(data: bytes) -> RunnerView | None:
    try:
        return RunnerView.model_validate_json(data)
    except ValidationError as error:  # of a runner of another version
        _log.warning("fleet.view_not_read", error=str(error))
        return None
