"""Loops go on after failures and end when told."""

import asyncio

from structlog.testing import capture_logs

from batchyard.common.objects import ObjectStoreUnavailable
from batchyard.file_store.loops import every, until_done

SOON = 0.001
NEVER = 3600.0
A_BAD_PASS = RuntimeError("a bad pass")


class _Work:
    """Fails a number of times; sets `stop` after a number of calls, if one is given."""

    def __init__(
        self,
        failures: int = 0,
        stop: asyncio.Event | None = None,
        stop_at: int = 0,
        error: Exception = A_BAD_PASS,
    ) -> None:
        self.calls = 0
        self._error = error
        self._failures = failures
        self._stop = stop
        self._stop_at = stop_at

    async def __call__(self) -> None:
        self.calls += 1
        if self._stop is not None and self.calls == self._stop_at:
            self._stop.set()
        if self.calls <= self._failures:
            raise self._error


async def test_work_is_repeated_until_stopped() -> None:
    stop = asyncio.Event()
    work = _Work(stop=stop, stop_at=3)
    await asyncio.wait_for(every(SOON, "x", work, stop), 5)
    assert work.calls == 3


async def test_a_failed_pass_is_logged_and_tried_again() -> None:
    stop = asyncio.Event()
    work = _Work(failures=2, stop=stop, stop_at=3)
    with capture_logs() as logs:
        await asyncio.wait_for(every(SOON, "sweep", work, stop), 5)
    assert work.calls == 3
    assert [(log["event"], log["loop"]) for log in logs] == [("loop.failed", "sweep")] * 2


async def test_an_outage_is_logged_with_its_reason_and_without_a_trace() -> None:
    stop = asyncio.Event()
    work = _Work(failures=1, stop=stop, stop_at=2, error=ObjectStoreUnavailable("the secret key is wrong"))
    with capture_logs() as logs:
        await asyncio.wait_for(every(SOON, "sweep", work, stop), 5)
    assert logs == [
        {"event": "loop.failed", "log_level": "warning", "loop": "sweep", "error": "the secret key is wrong"}
    ]


async def test_a_stop_does_not_wait_for_the_next_pass() -> None:
    stop = asyncio.Event()
    loop = asyncio.create_task(every(NEVER, "x", _Work(), stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(loop, 5)


async def test_work_to_be_done_once_is_tried_until_it_succeeds() -> None:
    work = _Work(failures=2)
    with capture_logs():
        await asyncio.wait_for(until_done(SOON, "x", work, asyncio.Event()), 5)
    assert work.calls == 3


async def test_work_that_never_succeeds_ends_with_the_process() -> None:
    stop = asyncio.Event()
    work = _Work(failures=9, stop=stop, stop_at=2)
    with capture_logs():
        await asyncio.wait_for(until_done(SOON, "x", work, stop), 5)
    assert work.calls == 2
