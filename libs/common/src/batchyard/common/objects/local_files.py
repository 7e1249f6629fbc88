"""Files as objects: the blocking half of the local store.

A root holds `objects/`, where a key is a path, and `.tmp/`, where objects grow until they are published by
renaming. A file in `.tmp/` is locked (`flock`) by the process that writes it, and the system frees the lock when
that process ends: so any process can tell a stale file, in whichever container it or the writer runs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from stat import S_ISDIR
from typing import TYPE_CHECKING
from uuid import uuid4

from batchyard.common.objects.errors import InvalidObjectKey, ObjectNotFound
from batchyard.common.objects.port import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_BYTES = 1024 * 1024
COPY_BYTES = 64 * 1024 * 1024
STALE_AFTER_S = 60.0  # an unlocked file may be one that its writer is about to lock
_PUBLISH_ATTEMPTS = 100
_CANNOT_COPY_IN_KERNEL = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


def describe(key: str, status: os.stat_result) -> ObjectInfo:
    """Build the description of an object from its file's status."""
    etag = f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"
    return ObjectInfo(key, status.st_size, etag, datetime.fromtimestamp(status.st_mtime, UTC))


class SourceFile:
    """One object being read: what was published when it was opened, even if it is replaced meanwhile."""

    def __init__(self, path: Path, key: str, start: int = 0, length: int | None = None) -> None:
        self._path = path
        self._key = key
        self._length = length
        self._position = start
        self._end = 0
        self._fd = -1

    def open(self) -> int:
        """Open the file once, and return its descriptor. Raises ObjectNotFound."""
        if self._fd >= 0:
            return self._fd
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectNotFound(self._key) from None
        status = os.fstat(self._fd)
        if S_ISDIR(status.st_mode):
            raise ObjectNotFound(self._key)
        self._end = status.st_size
        if self._length is not None:
            self._end = min(self._end, self._position + self._length)
        return self._fd

    def read(self) -> bytes:
        """Read the next at most 1 MiB of the range; nothing at its end."""
        fd = self.open()
        chunk = os.pread(fd, max(0, min(READ_BYTES, self._end - self._position)), self._position)
        self._position += len(chunk)
        return chunk

    def copy_to(self, target: int) -> bool:
        """Append the next at most 64 MiB of the range to another file; say whether any was left to copy."""
        fd = self.open()
        left = min(COPY_BYTES, self._end - self._position)
        if left <= 0:
            return False
        if copied := _copy_in_kernel(fd, self._position, target, left):
            self._position += copied
            return True
        chunk = self.read()
        _write_all(target, chunk)
        return bool(chunk)

    @property
    def is_exhausted(self) -> bool:
        """Whether the file is open and its range was read to the end."""
        return self._fd >= 0 and self._position >= self._end

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class GrowingFile:
    """An object that nobody sees yet."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / ".tmp" / uuid4().hex
        self._fd = -1

    def write(self, data: bytes) -> None:
        """Append bytes."""
        _write_all(self._open(), data)

    def copy_from(self, source: SourceFile) -> bool:
        """Append the next piece of another object; say whether there was one."""
        return source.copy_to(self._open())

    def publish(self, key: str, data: bytes = b"") -> ObjectInfo:
        """Append the last bytes, make all of them durable, and give the object its key.

        Raises:
            InvalidObjectKey: the key is a folder of other keys, or lies below another key.
        """
        fd = self._open()
        _write_all(fd, data)
        os.fsync(fd)
        status = os.fstat(fd)
        target = self._root / "objects" / key
        try:
            self._rename(key, target)
        except (NotADirectoryError, FileExistsError):
            if not (self._root / "objects").is_dir():
                raise  # it is the whole store that is gone
            raise InvalidObjectKey(key, "lies below another key") from None
        with suppress(FileNotFoundError):  # deleted again already, and its folder with it
            _sync_folder(target.parent)
        self.close()
        return describe(key, status)

    @property
    def is_open(self) -> bool:
        """Whether there is anything to publish or to discard."""
        return self._fd >= 0

    def discard(self) -> None:
        """Leave nothing behind. After `publish` this does nothing; nor where the whole store is gone."""
        if self._fd >= 0:
            with suppress(OSError):
                self._path.unlink()
            self.close()

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._fd

    def _rename(self, key: str, target: Path) -> None:
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                self._path.replace(target)
            except FileNotFoundError:
                # The folder is missing; `remove` in another process may take it away again before we use it.
                with suppress(FileNotFoundError):
                    make_folders(target.parent)
            except IsADirectoryError:
                _remove_empty_folder(key, target)
            else:
                return
        raise OSError(errno.EBUSY, "its folder is removed again and again", str(target))


def stat(root: Path, key: str) -> ObjectInfo:
    """Describe the object under a key. Raises ObjectNotFound."""
    try:
        status = (root / "objects" / key).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectNotFound(key) from None
    if S_ISDIR(status.st_mode):
        raise ObjectNotFound(key)
    return describe(key, status)


def remove(root: Path, key: str) -> None:
    """Delete the object under a key, if there is one, and the folders that this leaves empty.

    Nothing is synced: after a power cut the object may be back.
    """
    objects = root / "objects"
    path = objects / key
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (IsADirectoryError, PermissionError):
        if path.is_dir():  # a folder of other keys is no object
            return
        raise
    for folder in path.parents:
        if folder == objects:
            break
        try:
            folder.rmdir()
        except OSError:  # not empty, or gone
            break


def walk(root: Path, prefix: str) -> Iterator[ObjectInfo]:
    """Describe the objects whose key begins with a prefix, in key order, holding one folder's names a level."""
    folder, _, _ = prefix.rpartition("/")
    pending = [_entries(root, f"{folder}/" if folder else "", prefix)]
    while pending:
        name = next(pending[-1], None)
        if name is None:
            pending.pop()
        elif name.endswith("/"):
            pending.append(_entries(root, name, prefix))
        else:
            with suppress(ObjectNotFound):  # deleted meanwhile
                yield stat(root, name)


def _entries(root: Path, folder: str, prefix: str) -> Iterator[str]:
    """List a folder in key order: a folder `a/` sorts after `a-b` and `a.b`, as its keys do."""
    try:
        with os.scandir(root / "objects" / folder) as entries:
            names = [f"{folder}{entry.name}{'/' if entry.is_dir() else ''}" for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return iter(())
    return iter(sorted(name for name in names if name.startswith(prefix)))


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, each one durable."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        with suppress(FileExistsError):  # another process made it; `replace` says so if it is a file
            new.mkdir()
        _sync_folder(new.parent)


def remove_stale(root: Path) -> int:
    """Remove what crashed processes left in `.tmp/`, and return how many files that was."""
    removed = 0
    for path in (root / ".tmp").iterdir():
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < STALE_AFTER_S:
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


def _remove_empty_folder(key: str, target: Path) -> None:
    try:
        target.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise InvalidObjectKey(key, "is a folder of other keys") from None
        raise


def _copy_in_kernel(source: int, position: int, target: int, count: int) -> int:
    """Copy bytes between files without reading them; 0 where system or file system cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, target, count, offset_src=position)
    except OSError as error:
        if error.errno in _CANNOT_COPY_IN_KERNEL:
            return 0
        raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
