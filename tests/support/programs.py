"""The programs of a running system: what they are, and more of them."""

from dataclasses import replace

from batchyard.cli.process import Program
from batchyard.cli.running import RunningStack

RUNNER = "batch-runner"


def variables(settings: dict[str, object]) -> dict[str, str]:
    """Settings as the environment has them."""
    return {f"BATCHYARD_{name.upper()}": str(value) for name, value in settings.items()}


def program_of(stack: RunningStack, name: str) -> Program:
    """What the system runs under a name now, its environment included."""
    return stack.supervisor._kept[name].program


def add_runner(stack: RunningStack, name: str, **environment: object) -> None:
    """Start one more batch-runner, as another machine would have it."""
    first = program_of(stack, RUNNER)
    stack.supervisor.start(
        replace(
            first,
            name=name,
            environment={**first.environment, **variables(environment)},
            log=stack.layout.log(name),
        )
    )
