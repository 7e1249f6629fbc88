"""Showing the services' logs while they are written."""

import asyncio
from collections.abc import Callable
from pathlib import Path

_POLL = 0.1


class LogFollower:
    """Reads what is appended to log files, from their present end on.

    Args:
        files: The log of each program, by its name; a file need not exist yet.
        show: Given a program's name and a whole line.
    """

    def __init__(self, files: dict[str, Path], show: Callable[[str, str], None]) -> None:
        self._files = files
        self._show = show
        self._read = {name: path.stat().st_size if path.exists() else 0 for name, path in files.items()}

    async def follow(self) -> None:
        """Show new lines until cancelled, and then those that are still there."""
        try:
            while True:
                self.catch_up()
                await asyncio.sleep(_POLL)  # the standard library cannot wait for a file to grow
        finally:
            self.catch_up()

    def catch_up(self) -> None:
        """Show every whole line that was not shown yet."""
        for name, path in self._files.items():
            if not path.exists():
                continue
            if path.stat().st_size < self._read[name]:
                self._read[name] = 0  # set aside and begun anew
            with path.open("rb") as file:
                file.seek(self._read[name])
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._read[name] += len(whole) + 1
                for line in whole.decode(errors="replace").split("\n"):
                    self._show(name, line)
