"""A service without a purpose, to see how a process starts and stops."""

import asyncio
import sys
from functools import partial

from batchyard.common.errors import ConfigurationError
from batchyard.common.service import open_messaging, run_service
from batchyard.common.settings import Settings


async def serve(how: str, settings: Settings, stop: asyncio.Event) -> None:
    if how == "misconfigured":
        raise ConfigurationError("config.yaml: model_list[0] is wrong")
    if how == "broken":
        raise ZeroDivisionError("a bug")
    print("starting", flush=True)  # noqa: T201  the test waits for it
    async with open_messaging("probe", settings) as messaging:
        print("ready", flush=True)  # noqa: T201
        if how == "too-large":  # more than the server takes: it closes the connection for good
            await messaging.connection.publish("x", b"x" * 1_048_570, headers={"name": "value"})
        await stop.wait()


if __name__ == "__main__":
    run_service("probe", Settings, lambda settings: partial(serve, sys.argv[1], settings))
