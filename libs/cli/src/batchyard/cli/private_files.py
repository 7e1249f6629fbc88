"""Files with secrets in them: replaced in one step, and readable by nobody else."""

import os
from pathlib import Path

PRIVATE = 0o600


def write_file(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Replace a file's content; whoever reads it sees the old one or the new one, also after a power cut."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(mode)
    temporary.replace(path)
