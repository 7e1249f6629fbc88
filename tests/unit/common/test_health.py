"""Readiness is answered in time, and says what is wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from batchyard.common.contracts.health import CheckBilling, Health
from batchyard.common.health import Check, HealthChecks


@asynccontextmanager
async def checking(timeout: float = 5.0, **checks: Check) -> AsyncIterator[HealthChecks]:
    async with HealthChecks("billing", checks, timeout=timeout) as health:
        yield health


async def ask(health: HealthChecks) -> Health:
    return await asyncio.wait_for(health.check("t", CheckBilling()), 5)


async def fine() -> str:
    return "any result"


async def broken() -> None:
    raise OSError("disk full")


async def broken_without_a_word() -> None:
    raise TimeoutError


class Hanging:
    """A check that answers when it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.let_go = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        try:
            await self.let_go.wait()
        finally:
            self.ended += 1


async def test_all_is_well_when_every_check_is() -> None:
    async with checking(nats=fine, database=fine) as health:
        assert await ask(health) == Health(service="billing", status="ok", checks={"nats": "ok", "database": "ok"})


async def test_a_failing_check_says_why() -> None:
    async with checking(nats=fine, database=broken) as health:
        answer = await ask(health)
    assert answer.status == "unhealthy"
    assert answer.checks == {"nats": "ok", "database": "disk full"}


async def test_a_failure_without_a_message_is_named_by_its_kind() -> None:
    async with checking(nats=broken_without_a_word) as health:
        assert (await ask(health)).checks == {"nats": "TimeoutError"}


async def test_a_hanging_check_does_not_hold_up_the_answer() -> None:
    async with checking(0.05, nats=fine, database=Hanging()) as health:
        answer = await ask(health)
    assert answer.status == "unhealthy"
    assert answer.checks == {"nats": "ok", "database": "no answer within 0.05 s"}


async def test_checks_are_asked_side_by_side() -> None:
    both = asyncio.Barrier(2)
    async with checking(first=both.wait, second=both.wait) as health:
        assert (await ask(health)).status == "ok"


async def test_hanging_checks_do_not_pile_up() -> None:
    hanging = Hanging()
    async with checking(0.01, database=hanging) as health:
        for _ in range(3):
            await ask(health)
    assert hanging.begun == 1


async def test_a_check_that_comes_back_is_asked_anew() -> None:
    hanging = Hanging()
    async with checking(0.05, database=hanging) as health:
        assert (await ask(health)).status == "unhealthy"
        hanging.let_go.set()
        assert (await ask(health)).status == "ok"
        assert (await ask(health)).status == "ok"
    assert hanging.begun >= 2


async def test_closing_ends_what_hangs() -> None:
    hanging = Hanging()
    async with checking(0.01, database=hanging) as health:
        await ask(health)
    assert hanging.ended == 1


@pytest.mark.parametrize("callers", [1, 8])
async def test_every_caller_gets_an_answer(callers: int) -> None:
    async with checking(0.05, nats=fine, database=Hanging()) as health:
        answers = await asyncio.gather(*(ask(health) for _ in range(callers)))
    assert [answer.checks["nats"] for answer in answers] == ["ok"] * callers


async def test_what_begins_to_fail_and_what_recovers_is_logged_once() -> None:
    outcomes = iter([fine, broken, broken, fine, fine])

    async def changing() -> object:
        return await next(outcomes)()

    with capture_logs() as logs:
        async with checking(disk=changing) as health:
            for _ in range(5):
                await ask(health)
    assert [(log["event"], log["check"], log.get("reason")) for log in logs] == [
        ("health.failing", "disk", "disk full"),
        ("health.recovered", "disk", None),
    ]
