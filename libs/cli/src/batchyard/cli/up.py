"""`batchyard up`: the whole system on one machine, until Ctrl-C."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from batchyard.cli import console
from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.cli.following import LogFollower
from batchyard.cli.running import running_stack
from batchyard.cli.services import MODULES
from batchyard.cli.stack import PROGRAMS, Address, Layout
from batchyard.cli.supervisor import Supervisor
from batchyard.common.config import Config, load_config
from batchyard.common.errors import ConfigurationError

_NO_SERVER = """\
There is no vLLM server to send batches to. Name one in either way:

  HOSTED_VLLM_API_BASE=http://127.0.0.1:8000 batchyard up

  batchyard up --config config.yaml       with a LiteLLM config.yaml such as

    model_list:
      - model_name: my-vllm-model
        litellm_params:
          model: hosted_vllm/my-vllm-model
          api_base: http://127.0.0.1:8000

`batchyard sim` starts a simulated server on that port, `batchyard demo` shows everything at once."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `batchyard up` was asked for."""

    data_dir: Path
    config: Path | None = None
    address: Address = field(default_factory=Address)
    verbose: bool = False


async def up(options: UpOptions, supervisor: Supervisor) -> None:
    """Run the system until cancelled.

    Raises:
        Failure: Something is wrong that a person has to put right; nothing is left running.
    """
    config = read_config(options.config, os.environ)
    for warning in config.warnings:
        console.warn(warning)
    if not options.address.is_loopback and config.master_key is None:
        console.warn(
            f"everyone who can reach {options.address.host} can use this API and read every file: there is no master "
            "key. Set general_settings.master_key in the configuration, or BATCHYARD_MASTER_KEY."
        )
    refuse_busy_port(options.address)
    try:
        with console.working("Starting Batchyard …") as done:
            async with (
                _shown_logs(options),
                running_stack(
                    options.data_dir, config=options.config, address=options.address, supervisor=supervisor
                ) as running,
            ):
                done()
                console.out.print(
                    f"Batchyard is ready on {running.url}/v1 (data in {running.layout.root}, stop with Ctrl-C)"
                )
                await supervisor.guard(asyncio.Event().wait())
    except asyncio.CancelledError:
        console.err.print("Batchyard has stopped.")
        raise


def reload(options: UpOptions, supervisor: Supervisor) -> None:
    """Have the services read the configuration again, unless it cannot be used: then say what is wrong with it."""
    try:
        config = read_config(options.config, os.environ)
    except Failure as failure:
        console.warn(f"the configuration before stays in force, because this one cannot be used:\n{failure.message}")
        return
    for warning in config.warnings:
        console.warn(warning)
    for name in supervisor.pids.keys() & MODULES.keys():
        supervisor.signal(name, signal.SIGHUP)
    console.err.print("The services read the configuration again; their logs say what has changed.")


def read_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration, which names at least one server.

    Raises:
        Failure: It cannot be used, or there is none.
    """
    try:
        config = load_config(path, environ)
    except ConfigurationError as error:
        raise Failure(str(error), EXIT_MISCONFIGURED) from error
    if not config.deployments:
        raise Failure(_NO_SERVER if path is None else f"{path}: model_list names no model.", EXIT_MISCONFIGURED)
    return config


def refuse_busy_port(address: Address) -> None:
    """Find out before anything is started.

    Raises:
        Failure: The gateway could not listen on this address.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Failure(f"{address.host} is not an address of this machine: {error.strerror}.") from error
    family, kind, protocol, _, where = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Failure(
                    f"Port {address.port} is in use; choose another with --port, or --port 0 for a free one."
                ) from error
            raise Failure(f"Cannot listen on {address.host}, port {address.port}: {error.strerror}.") from error


@asynccontextmanager
async def _shown_logs(options: UpOptions) -> AsyncIterator[None]:
    """Show the logs until everything has stopped, if that was asked for."""
    if not options.verbose:
        yield
        return
    layout = Layout(options.data_dir)
    follower = LogFollower(
        {name: layout.log(name) for name in PROGRAMS},
        lambda name, line: console.err.print(console.log_line(name, line)),
    )
    following = asyncio.create_task(follower.follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})
