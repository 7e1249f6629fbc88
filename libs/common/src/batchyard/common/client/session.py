"""One connection and one tenant: commands, and subscriptions that say when to look again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from nats.aio.client import Client as Connection
from nats.aio.msg import Msg
from nats.errors import Error
from pydantic import BaseModel
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from batchyard.common import subjects
from batchyard.common.contracts.base import Command
from batchyard.common.errors import PermissionDenied, ServiceUnavailable
from batchyard.common.messaging.commands import CommandClient
from batchyard.common.messaging.connection import subscribed
from batchyard.common.tasks import end

R = TypeVar("R", bound=BaseModel)

_TRIES = 4


class Denials:
    """What NATS has refused: it says so beside the connection, and the command itself would only run out of time."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def note(self, error: Exception) -> None:
        """Tell whoever waits for an answer to what was refused."""
        said = str(error)
        for subject, waiting in self._waiting.items():
            if f'publish to "{subject}"' in said:  # nats-py gives the server's words in lower case
                for future in waiting:
                    if not future.done():
                        future.set_result(None)

    @asynccontextmanager
    async def watched(self, subject: str) -> AsyncIterator["asyncio.Future[None]"]:
        """A future that is done when NATS refuses a message to `subject`."""
        key, denied = subject.lower(), asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(denied)
        try:
            yield denied
        finally:
            waiting.discard(denied)
            denied.cancel()
            if not waiting:
                self._waiting.pop(key, None)


class Session:
    """What every part of a client works with.

    Attributes:
        tenant: Whose objects these are.
    """

    def __init__(self, connection: Connection, tenant: str, timeout: float, denials: Denials) -> None:
        self._connection = connection
        self.tenant = tenant
        self._commands = CommandClient(connection, timeout)
        self._denials = denials
        self._wakers: set[asyncio.Event] = set()

    async def call(self, command: Command[R], *, is_repeatable: bool = True) -> R:
        """The command's result. One that may be sent twice is, when no answer came.

        Raises:
            ApiError: What the service answered.
            PermissionDenied: The user of NATS may not speak for this tenant.
            ServiceUnavailable: No answer came.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(ServiceUnavailable),
            wait=wait_exponential_jitter(multiplier=0.1, max=2),
            stop=stop_after_attempt(_TRIES if is_repeatable else 1),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                return await self._call(command)
        raise AssertionError("tenacity ends by a result or an error")

    async def _call(self, command: Command[R]) -> R:
        subject = command.subject(self.tenant)
        async with self._denials.watched(subject) as denied:
            answer = asyncio.create_task(self._commands.call(self.tenant, command))
            waited: set[asyncio.Future[Any]] = {answer, denied}
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    return answer.result()
            finally:
                await end((answer,))
        raise PermissionDenied(
            f"This user of NATS may not send commands for the tenant '{self.tenant}': NATS refused {subject}."
        )

    @asynccontextmanager
    async def woken_by(self, patterns: Sequence[str]) -> AsyncIterator["Waker"]:
        """Something that wakes when a message comes to any of `patterns`, or one may have been missed.

        Raises:
            ServiceUnavailable: NATS is away.
        """
        waker = Waker()
        subscriptions = []
        self._wakers.add(waker.event)
        try:
            try:
                for pattern in patterns:
                    subscriptions += [await self._connection.subscribe(pattern, cb=waker.hear)]
                await subscribed(self._connection)  # from here on nothing is missed
            except (Error, OSError) as error:
                raise ServiceUnavailable("NATS did not answer. Please retry shortly.") from error
            yield waker
        finally:
            self._wakers.discard(waker.event)
            for subscription in subscriptions:
                with suppress(Error):
                    await subscription.unsubscribe()

    def wake(self) -> None:
        """Have everybody look again: messages may have been missed."""
        for event in self._wakers:
            event.set()


class Waker:
    """Awake from the first message, or the first reconnection, since it last slept."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._tick: bytes | None = None
        self._is_news = False

    async def hear(self, message: Msg) -> None:
        """Take a message: the last tick is kept, of anything else that it came."""
        if subjects.is_live(message.subject):
            self._tick = message.data
        else:
            self._is_news = True
        self.event.set()

    def take_tick(self) -> bytes | None:
        """The last tick, if there was nothing but ticks since the last call."""
        tick, self._tick = self._tick, None
        is_news, self._is_news = self._is_news, False
        return None if is_news else tick

    async def sleep(self, longest: float) -> bool:
        """Wait for `longest` seconds at most; whether something woke it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self.event.wait()
        woken = self.event.is_set()
        self.event.clear()
        return woken
