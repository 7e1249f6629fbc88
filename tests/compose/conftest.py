"""docker-compose.yml, really brought up: `make test-compose`. Needs a Docker engine and its compose plugin.

The images are taken as they are: those that the file names are pulled by Docker if they are not there, and the
services' are built from deploy/Dockerfile.
"""

import logging
from collections.abc import Iterator

import pytest

from support.compose import ComposeProject, compose_project, why_not


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeProject]:
    if reason := why_not():
        pytest.skip(reason)
    for client in ("httpx", "httpx2"):  # ours, and that of the SDK: a line for every request
        logging.getLogger(client).setLevel(logging.WARNING)
    with compose_project(tmp_path_factory.mktemp("compose")) as project:
        yield project
