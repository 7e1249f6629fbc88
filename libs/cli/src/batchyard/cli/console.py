"""What the person at the terminal sees: results on stdout, everything else on stderr."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

_LEVELS = {"debug": "dim", "info": "green", "warning": "yellow", "error": "red", "critical": "bold red"}
_PLACED = frozenset({"timestamp", "service", "level", "event", "logger", "exception", "color_message"})

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Text from elsewhere without what could steer the terminal; line breaks stay."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def warn(message: str) -> None:
    """Say something that the person should act on."""
    err.print(Text.assemble(("Warning: ", "bold yellow"), printable(message)))


def notice(message: str) -> None:
    """Say what has happened, where nothing need be done."""
    err.print(Text(printable(message), style="yellow"))


def fail(message: str) -> None:
    """Say why the command ends."""
    err.print(Text.assemble(("Error: ", "bold red"), printable(message)))


@contextmanager
def working(what: str) -> Iterator[Callable[[], None]]:
    """Show that something takes a moment, until the function given is called: a spinner, on a terminal alone."""
    if not err.is_terminal:
        yield lambda: None
        return
    with err.status(what) as status:
        yield status.stop


def log_line(service: str, line: str) -> Text:
    """One line of a service's log as a person reads it; a line that is not JSON stays as it is."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return Text.assemble((f"{service:<13}", "cyan"), printable(line))
    level = str(entry.get("level", ""))
    values = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _PLACED)
    fields = printable(values).replace("\n", "\\n")  # a client's line break must not look like a line of the log
    text = Text.assemble(
        (f"{str(entry.get('timestamp', ''))[11:19]} ", "dim"),
        (f"{service:<13}", "cyan"),
        (f"{level:<9}", _LEVELS.get(level, "")),
        (printable(str(entry.get("event", ""))), "bold"),
        f" {fields}" if fields else "",
    )
    if exception := entry.get("exception"):
        text.append(f"\n{printable(str(exception))}")
    return text
