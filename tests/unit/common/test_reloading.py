"""A configuration file that changes under a process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from batchyard.common.config import Config
from batchyard.common.reloading import following_config, read_config, reload_asked
from batchyard.common.settings import Settings

INTERVAL = 0.05


class Follower:
    """What a service was told to go over to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used: list[Config] = []
        self.fails = False

    def use(self, config: Config) -> None:
        self.used.append(config)
        if self.fails:
            raise ZeroDivisionError

    async def uses(self, count: int) -> list[str]:
        """The models of the latest configuration, once there were `count`."""
        async with asyncio.timeout(10):
            while len(self.used) < count:
                await asyncio.sleep(INTERVAL / 10)
        assert len(self.used) == count
        return list(self.used[-1].pools)


@asynccontextmanager
async def following(path: Path, interval: float = INTERVAL) -> AsyncIterator[Follower]:
    settings = Settings(config=path, config_poll_interval=interval)
    follower = Follower(path)
    async with following_config(settings, read_config(settings), asyncio.Event(), follower.use):
        yield follower


def text(*models: str) -> str:
    entries = "".join(
        f"  - {{model_name: {model}, litellm_params: {{model: m, api_base: 'http://{model}'}}}}\n" for model in models
    )
    return f"model_list:\n{entries}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text("a"))
    return path


async def test_a_file_that_is_written_anew_is_used(path: Path) -> None:
    async with following(path) as follower:
        path.write_text(text("a", "b"))
        assert await follower.uses(1) == ["a", "b"]


async def test_a_file_that_is_replaced_by_one_as_large_and_as_old_is_used(path: Path, tmp_path: Path) -> None:
    async with following(path) as follower:
        new = tmp_path / "new.yaml"
        new.write_text(text("c"))
        new.replace(path)
        assert await follower.uses(1) == ["c"]


async def test_a_file_that_is_still_being_written_is_not_read(path: Path) -> None:
    """An editor that writes in place leaves half a file for a moment, which may well be valid."""
    async with following(path, interval=0.2) as follower:
        whole = text(*(f"m{index}" for index in range(60)))
        with path.open("w") as file:
            for part in whole.splitlines(keepends=True):
                file.write(part)
                file.flush()
                await asyncio.sleep(0.01)
        assert len(await follower.uses(1)) == 60


async def test_a_file_that_is_gone_for_a_while_changes_nothing(path: Path) -> None:
    with capture_logs() as logs:
        async with following(path) as follower:
            path.unlink()
            async with asyncio.timeout(10):
                while not logs:
                    await asyncio.sleep(INTERVAL)
            path.write_text(text("b"))
            assert await follower.uses(1) == ["b"]
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("config.rejected", "error"),
        ("config.changed", "info"),
    ]


async def test_a_change_between_the_first_reading_and_the_first_look_is_seen(path: Path) -> None:
    settings = Settings(config=path, config_poll_interval=INTERVAL)
    first = read_config(settings)
    path.write_text(text("later"))
    follower = Follower(path)
    async with following_config(settings, first, asyncio.Event(), follower.use):
        assert await follower.uses(1) == ["later"]


async def test_a_bug_in_going_over_does_not_end_the_following(path: Path) -> None:
    async with following(path) as follower:
        follower.fails = True
        path.write_text(text("a", "b"))
        await follower.uses(1)
        follower.fails = False
        path.write_text(text("a", "b", "c"))
        assert await follower.uses(2) == ["a", "b", "c"]


async def test_who_asks_is_heeded_at_once(path: Path) -> None:
    asked = asyncio.Event()
    token = reload_asked.set(asked)
    try:
        async with following(path, interval=3600) as follower:
            path.write_text(text("now"))
            asked.set()
            assert await follower.uses(1) == ["now"]
    finally:
        reload_asked.reset(token)
