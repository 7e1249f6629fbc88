"""Which services there are, by their names, in the order of their start."""

GATEWAY = "gateway"
MODULES = {
    "file-store": "batchyard.file_store",
    "billing": "batchyard.billing",
    "batch-runner": "batchyard.batch_runner",
    GATEWAY: "batchyard.gateway",
}
