"""The fleet and its prices, from a LiteLLM `config.yaml` or from `HOSTED_VLLM_*` alone."""

from batchyard.common.config.changes import changes
from batchyard.common.config.load import load_config
from batchyard.common.config.model import ANY_MODEL, Alias, BatchMode, Config, Deployment, Price
from batchyard.common.config.names import bare, is_pattern

__all__ = [
    "ANY_MODEL",
    "Alias",
    "BatchMode",
    "Config",
    "Deployment",
    "Price",
    "bare",
    "changes",
    "is_pattern",
    "load_config",
]
