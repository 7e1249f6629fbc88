"""What a person sees of a soak while it runs, and what may be of interest when it is over."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from batchyard.cli.running import RunningStack


class Progress:
    """What a person sees meanwhile: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, every: float = 5.0) -> None:
        self._console = console
        self._every = every
        self._status: Status | None = console.status("starting") if console.is_terminal else None

    @asynccontextmanager
    async def showing(self, text: Callable[[], str]) -> AsyncIterator[None]:
        task = asyncio.create_task(self._show(text))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _show(self, text: Callable[[], str]) -> None:
        if self._status is None:
            while True:
                self._console.print(escape(text()))
                await asyncio.sleep(self._every)
        with self._status:
            while True:
                self._status.update(escape(text()))
                await asyncio.sleep(0.2)


def memory(stack: RunningStack) -> str:
    """Resident memory of every process, now and at most since its last start."""
    said = []
    for name, pid in stack.pids.items():
        status = Path(f"/proc/{pid}/status").read_text()
        now, peak = (int(status.partition(f"{what}:")[2].split()[0]) / 1024 for what in ("VmRSS", "VmHWM"))
        said.append(f"{name} {now:.0f} (peak {peak:.0f})")
    return f"MiB: {', '.join(said)}"


def complaints(logs: Path) -> str:
    """What the services logged as errors, by event: for a person to judge."""
    counts: Counter[str] = Counter()
    for log in logs.glob("*.log"):
        for line in log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                if "Traceback" in line:
                    counts[f"{log.stem}: Traceback"] += 1
                continue
            if isinstance(entry, dict) and entry.get("level") in {"error", "critical"}:
                counts[f"{log.stem}: {entry.get('event')}"] += 1
    return ", ".join(f"{count} × {what}" for what, count in counts.most_common()) or "none"
