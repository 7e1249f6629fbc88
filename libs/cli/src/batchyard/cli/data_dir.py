"""The data directory: made private, and used by one `batchyard up` at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchyard.cli.failures import EXIT_MISCONFIGURED, Failure
from batchyard.cli.stack import Layout


@contextmanager
def held(root: Path) -> Iterator[Layout]:
    """Make the directory if need be, and hold it while the context is open.

    Raises:
        Failure: Another process holds it, or it cannot be used.
    """
    layout = Layout(root.expanduser().absolute())
    if "?" in str(layout.root):
        raise Failure(f"{layout.root}: the path of the data must not contain '?'.", EXIT_MISCONFIGURED)
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.logs.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Failure(f"{layout.root}: cannot be used for the data: {error.strerror}.") from error
    try:
        _lock(lock, layout)
        yield layout
    finally:
        os.close(lock)


def _lock(lock: int, layout: Layout) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        raise Failure(
            f"{layout.root} is in use by another `batchyard up` (process {holder}). "
            "Stop that one, or choose another directory with --data-dir."
        ) from error
    except OSError as error:
        raise Failure(f"{layout.lock}: cannot be locked: {error.strerror}.") from error
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
