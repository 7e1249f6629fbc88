"""Fixtures shared by all tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from batchyard.common.service import Messaging, open_messaging
from batchyard.common.settings import Settings
from support.environment import forget_own_settings
from support.nats import running_nats
from support.s3 import s3_server_told

forget_own_settings()

# How long one example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("batchyard", deadline=None)
hypothesis.settings.load_profile("batchyard")


def pytest_report_header() -> str:
    return f"S3 server: {s3_server_told()}"


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    """A fresh nats-server of this test's own."""
    with running_nats(tmp_path / "nats") as url:
        yield url


@pytest.fixture
def settings(nats_url: str, tmp_path: Path) -> Settings:
    return Settings(nats_url=nats_url, object_store=f"file://{tmp_path}/objects", work_ack_wait=2.0)


@pytest.fixture
async def messaging(settings: Settings) -> AsyncIterator[Messaging]:
    """A connection with the topology declared; not yet started."""
    async with open_messaging("test", settings) as messaging:
        yield messaging
