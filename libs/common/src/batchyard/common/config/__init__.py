"""The fleet and its prices, from a LiteLLM `config.yaml` or from `HOSTED_VLLM_*` alone."""

from batchyard.common.config.load import load_config
from batchyard.common.config.model import ANY_MODEL, Config, Deployment, Price

__all__ = ["ANY_MODEL", "Config", "Deployment", "Price", "load_config"]
