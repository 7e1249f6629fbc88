"""Doing what a command is for, until it is done, interrupted or fails: the exit code says which."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import typer

from batchyard.cli import console
from batchyard.cli.failures import Failure
from batchyard.cli.interrupts import run_until_interrupted
from batchyard.cli.supervisor import Supervisor


def invoke(
    work: Callable[[Supervisor], Coroutine[Any, Any, None]],
    when_interrupted: int,
    on_hangup: Callable[[Supervisor], None] | None = None,
) -> None:
    """Run `work`; a Failure is shown, and ends the process with its exit code.

    Args:
        work: Gets a supervisor for the programs that it needs.
        when_interrupted: The exit code after Ctrl-C or SIGTERM.
        on_hangup: What a SIGHUP is for, if it does not end the work.
    """
    supervisor = Supervisor(notify=lambda restart: console.notice(str(restart)))
    try:
        finished = run_until_interrupted(
            work(supervisor), supervisor.kill, None if on_hangup is None else partial(on_hangup, supervisor)
        )
    except Failure as failure:
        console.fail(failure.message)
        raise typer.Exit(failure.exit_code) from None
    if not finished:
        raise typer.Exit(when_interrupted)
