"""What every run of a batch on a server needs."""

import asyncio
import random
from dataclasses import dataclass

from batchyard.batch_runner.batch_store import BatchStore
from batchyard.batch_runner.native.api import NativeApi
from batchyard.batch_runner.settings import RunnerSettings


@dataclass(frozen=True, slots=True)
class NativeTools:
    """`uploads` and `fetches` bound what is sent and fetched at a time, and so the memory."""

    store: BatchStore
    api: NativeApi
    settings: RunnerSettings
    rng: random.Random
    uploads: asyncio.Semaphore
    fetches: asyncio.Semaphore
