"""Whole systems for whole stories."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from support.systems import Yard


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with AsyncExitStack() as exits:
        yield Yard(exits, tmp_path)
