"""The ledger against what the events and the price book come to, as a person at a terminal would ask."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from soak.checker import Verdict

_NUMBER = re.compile(r"^ *([\d,]+)  (\w.*)$", re.MULTILINE)
_EQUAL = "entries that come out as they are"


async def check_rebuild(data_dir: Path, config: Path, entries: int, within: float) -> Verdict:
    """Whether `batchyard billing rebuild --check` finds all of the ledger as it should be.

    Args:
        data_dir: That of a system that runs.
        entries: How many there are on the ledger: each must have been judged.
        within: Seconds that the command may take.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batchyard.cli", "billing", "rebuild", "--check", "--data-dir", str(data_dir)),
        env=os.environ | {"BATCHYARD_CONFIG": str(config), "COLUMNS": "300"},
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        said = (await asyncio.wait_for(process.communicate(), within))[0].decode(errors="replace")
    except TimeoutError:
        process.kill()
        await process.wait()
        said = f"no answer within {within:.0f} s"
    found = {what: int(number.replace(",", "")) for number, what in _NUMBER.findall(said)}
    passed = process.returncode == 0 and found.get(_EQUAL) == entries > 0
    numbers = ", ".join(f"{number} {what}" for what, number in found.items())
    trouble = "" if passed else f". Exit code {process.returncode}: {said.strip()}"
    return Verdict(
        "the ledger is what the events and the prices come to", passed, f"{entries} entries: {numbers}{trouble}"
    )
