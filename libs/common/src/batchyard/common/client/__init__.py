"""Batchyard for internal services, over NATS: files and batches without HTTP.

    async with connect(tenant="reports") as batchyard:
        file = await batchyard.files.create(Path("requests.jsonl"), model="my-vllm-model")
        batch = await batchyard.batches.create(file.id, "/v1/chat/completions")
        await batchyard.batches.wait(batch.id)
        async for result in batchyard.batches.results(batch.id):
            print(result.custom_id, result.body)

Where NATS is, and as whom, is said by the environment or by `ClientSettings`. Errors are those of
`batchyard.common.errors`.
"""

from batchyard.common.client.batches import Batches
from batchyard.common.client.client import Client, connect
from batchyard.common.client.files import Files
from batchyard.common.client.results import Result
from batchyard.common.client.settings import ClientSettings

__all__ = ["Batches", "Client", "ClientSettings", "Files", "Result", "connect"]
