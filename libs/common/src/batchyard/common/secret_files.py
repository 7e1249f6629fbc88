"""Variables that come as files, one each, as Docker and Kubernetes hand out secrets.

What is in a file does not show in `docker inspect`, nor in the environment that a child process or a crash report sees.
"""

import re
from collections.abc import MutableMapping
from pathlib import Path

from batchyard.common.errors import ConfigurationError

DIRECTORY = "BATCHYARD_SECRETS_DIR"
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_MAX_BYTES = 64 * 1024


def adopt_secret_files(environ: MutableMapping[str, str]) -> None:
    """Set the variables that have files in the directory which `BATCHYARD_SECRETS_DIR` names, if it names one.

    A file is named as the variable, and holds its value; one newline at the end does not count. A variable that has
    a value keeps it. An empty file sets nothing. Files that are not named like a variable are left alone.

    Raises:
        ConfigurationError: The directory or a file in it cannot be read. The message holds no value.
    """
    directory = environ.get(DIRECTORY)
    if not directory:
        return
    try:
        files = [path for path in sorted(Path(directory).iterdir()) if _VARIABLE.fullmatch(path.name)]
    except OSError as error:
        raise ConfigurationError(f"{DIRECTORY}: {directory} cannot be read: {error.strerror}") from error
    for path in files:
        if not environ.get(path.name) and path.is_file() and (value := _content(path)):
            environ[path.name] = value


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES or b"\0" in content:
            raise ConfigurationError(f"{DIRECTORY}: {path} does not hold the value of a variable")
        return content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigurationError(f"{DIRECTORY}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{DIRECTORY}: {path} is not UTF-8") from None
