"""How the simulator says that it is one."""

from importlib.metadata import version

NAME = "batchyard-vllm-sim"
VERSION = version(NAME)
SERVER = f"{NAME}/{VERSION}"
DESCRIPTION = "vLLM simulator (no model, deterministic answers)"
