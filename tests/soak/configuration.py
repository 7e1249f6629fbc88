"""What a soak tells the services: short times, so that much happens in minutes, and the models with their prices."""

import json
import math
from pathlib import Path

from batchyard.vllm_sim.testing import RunningSim
from soak.plan import IN_FLIGHT, MODELS
from support.receiver import LOOPBACK

KEY = "sk-soak"
FLUSH_INTERVAL = 0.3
LATENCY = 0.2
FAULTS = ("status=503:0.01", "reset:0.005", "truncate:0.005", "abort:0.005", "bad-json:0.003", "status=429:0.005")
ENVIRONMENT = {
    "BATCHYARD_MAX_PARALLEL_REQUESTS": IN_FLIGHT,
    "BATCHYARD_SHARD_LINES": 100,
    "BATCHYARD_WORK_ACK_WAIT": 2,
    "BATCHYARD_FLUSH_INTERVAL": FLUSH_INTERVAL,
    "BATCHYARD_RECONCILE_INTERVAL": 1,
    "BATCHYARD_STALE_AFTER": 3,
    "BATCHYARD_PROBE_INTERVAL": 0.3,
    "BATCHYARD_RETRY_BASE": 0.05,
    "BATCHYARD_RETRY_CAP": 0.5,
    "BATCHYARD_REQUEST_TIMEOUT": 10,
    "BATCHYARD_SETTLE_PATIENCE": 3,
    "BATCHYARD_CANCEL_GRACE": 1,
    "BATCHYARD_SHUTDOWN_GRACE": 2,
    "BATCHYARD_ORPHAN_SWEEP_INTERVAL": 5,
    "BATCHYARD_ORPHAN_MIN_AGE": 20,
    "BATCHYARD_BUDGET_INTERVAL": 1,
    "BATCHYARD_AUDIT_INTERVAL": 2,
    "BATCHYARD_RESERVATION_AUDIT_INTERVAL": 2,
    "BATCHYARD_CONFIG_POLL_INTERVAL": 0.5,
    "BATCHYARD_WEBHOOK_ALLOWED_NETWORKS": LOOPBACK,
    "BATCHYARD_WEBHOOK_FIRST_RETRY": 0.3,
    "BATCHYARD_WEBHOOK_TIMEOUT": 1.5,
}


def write_config(path: Path, sims: list[RunningSim], factor: int = 1) -> Path:
    """One deployment for every pair of a model and a simulator that serves it, at `factor` times their prices."""
    entries = []
    for model in MODELS:
        for server in model.servers:
            params = {
                "model": f"hosted_vllm/{model.name}",
                "api_base": f"{sims[server].url}/v1",
                "input_cost_per_token": float(model.input * factor),
                "output_cost_per_token": float(model.output * factor),
            }
            if model.cached is not None:
                params["cache_read_input_token_cost"] = float(model.cached * factor)
            entries.append({"model_name": model.name, "litellm_params": params})
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"model_list": entries, "general_settings": {"master_key": KEY}}))
    new.replace(path)
    return path


def sendings_per_strike() -> int:
    """What a runner's death may cost: all that is in flight, and what was answered since the last checkpoint.

    A checkpoint is taken every interval, and takes as long again at most.
    """
    in_flight = IN_FLIGHT * sum(len(model.servers) for model in MODELS)
    return in_flight + in_flight * math.ceil(2 * FLUSH_INTERVAL / LATENCY)
