"""What tests start, and read, is to be as they say, and not as the shell of whoever runs them says."""

import os

_OWN = ("BATCHYARD", "HOSTED_VLLM", "OPENAI", "LITELLM")


def forget_own_settings() -> None:
    """Take every variable that Batchyard and its clients read out of this process' environment, for all it starts."""
    for name in [name for name in os.environ if name.startswith(_OWN)]:
        del os.environ[name]
