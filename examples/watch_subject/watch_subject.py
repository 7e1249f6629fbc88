"""An internal service: requests come in on a subject, go through a batch together, and the answers go back out.

Whoever publishes `{"id": "…", "prompt": "…"}` on `reviews.in` hears `{"id": "…", "answer": "…"}` on `reviews.out`, or
`{"id": "…", "error": "…"}`. Requests are gathered for a while, since a batch is cheaper than each of them alone.

What has been gathered lies in a folder until its answers are published, and its batch is made under the file's name:
a process that is started again finds the batch that the one before it has made. What has not been written there yet is
lost with the process, as core NATS does; read from a stream where that matters.

    python watch_subject.py --help
"""

import argparse
import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from batchyard.common.client import Client, connect
from batchyard.common.contracts.batches import BatchStatus

log = logging.getLogger("watch-subject")


def request_line(request_id: str, prompt: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps({"custom_id": request_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def replace(path: Path, text: str) -> None:
    """Write a file in one step: whoever finds it finds all of it."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_text(text)
    unfinished.replace(path)


class Gatherer:
    """Collects requests into files of `size` lines, or whatever has come within `seconds`."""

    def __init__(self, folder: Path, model: str, size: int, seconds: float) -> None:
        self._folder = folder
        self._model = model
        self._size = size
        self._seconds = seconds
        self._lines: dict[str, str] = {}
        self._has_some = asyncio.Event()
        self._is_full = asyncio.Event()

    async def take(self, message: Msg) -> None:
        try:
            request = json.loads(message.data)
            line = request_line(str(request["id"]), str(request["prompt"]), self._model)
        except (ValueError, KeyError, TypeError):
            log.warning("not a request: %r", message.data[:100])
            return
        self._lines[str(request["id"])] = line  # a repetition replaces: custom IDs are unique within a batch
        self._has_some.set()
        if len(self._lines) >= self._size:
            self._is_full.set()

    async def next(self) -> Path:
        """The next file that is full, or old enough."""
        await self._has_some.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_full.wait(), self._seconds)
        return self.write()

    @property
    def pending(self) -> int:
        return len(self._lines)

    def write(self) -> Path:
        """Put what has come so far into a file."""
        lines, self._lines = self._lines, {}
        self._has_some.clear()
        self._is_full.clear()
        path = self._folder / f"{uuid4().hex}.jsonl"
        replace(path, "".join(f"{line}\n" for line in lines.values()))
        return path


async def answer(batchyard: Client, bus: Nats, path: Path, subject: str) -> None:
    """Run the requests of a file, publish their answers, and remove the file."""
    note = path.with_suffix(".uploaded")  # the same key is for the same batch, which is over the same file
    if not note.exists():
        replace(note, (await batchyard.files.create(path)).id)
    batch = await batchyard.batches.create(note.read_text(), "/v1/chat/completions", idempotency_key=path.stem)
    log.info("%s is batch %s", path.name, batch.id)
    batch = await batchyard.batches.wait(batch.id)
    if batch.status is BatchStatus.FAILED:
        log.error("%s was refused: %s", path.name, batch.errors)
        path.rename(path.with_suffix(".refused"))
        return
    async for result in batchyard.batches.results(batch.id):
        said = {"id": result.custom_id}
        if result.is_success:
            said["answer"] = result.body["choices"][0]["message"]["content"]
        else:
            said["error"] = result.error.message if result.error else json.dumps(result.body)
        await bus.publish(subject, json.dumps(said).encode())
    await bus.flush()
    path.unlink()  # only now: who dies before this line publishes the answers again
    note.unlink()
    log.info("%s is answered: %s", path.name, batch.request_counts)


async def serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    """Work until `stop` is set. What is under way then is taken up at the next start."""
    options.folder.mkdir(parents=True, exist_ok=True)
    bus = await nats.connect(options.bus)
    gatherer = Gatherer(options.folder, options.model, options.size, options.seconds)
    jobs: set[asyncio.Task[None]] = set()
    async with connect() as batchyard, asyncio.TaskGroup() as tasks:

        def begin(path: Path) -> None:
            job = tasks.create_task(answer(batchyard, bus, path, options.answers))
            jobs.add(job)
            job.add_done_callback(jobs.discard)

        async def gather() -> None:
            while True:
                begin(await gatherer.next())

        for left_over in sorted(options.folder.glob("*.jsonl")):
            begin(left_over)
        subscription = await bus.subscribe(options.requests, queue="watch-subject", cb=gatherer.take)
        for _ in range(2):  # the first ping may overtake the subscription
            await bus.flush()
        log.info("listening on %s", options.requests)
        gathering = tasks.create_task(gather())
        await stop.wait()
        await subscription.drain()  # type: ignore[no-untyped-call]
        if gatherer.pending:
            gatherer.write()
        for task in (gathering, *jobs):
            task.cancel()
    await bus.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer what comes in on a NATS subject, in batches.")
    parser.add_argument("--bus", default=os.environ.get("BUS_URL", "nats://127.0.0.1:4222"), help="your own NATS")
    parser.add_argument("--requests", default="reviews.in", help="where requests come in")
    parser.add_argument("--answers", default="reviews.out", help="where answers go")
    parser.add_argument("--folder", type=Path, default=Path("pending"), help="where requests lie until answered")
    parser.add_argument("--model", default="my-vllm-model")
    parser.add_argument("--size", type=int, default=500, help="requests in one batch at most")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the first one waits for more")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(until_stopped(options))


async def until_stopped(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(options, stop)


if __name__ == "__main__":
    main()
