"""What a vLLM server says of its load in `GET /metrics`, in Prometheus' text format.

Source: https://docs.vllm.ai/en/latest/usage/metrics/ and
https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

import math
import re
from collections import defaultdict

from batchyard.batch_runner.observation import Load

_LABELS = r'\{(?:[^"{}\n]|"(?:[^"\\\n]|\\.)*")*\}'
_SERIES = re.compile(
    r"^vllm[:_](num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc|num_preemptions)"
    rf"(?:_total)?[ \t]*(?:{_LABELS})?[ \t]+(\S+)",
    re.MULTILINE,
)
_USAGE = ("kv_cache_usage_perc", "gpu_cache_usage_perc")  # the second one until vLLM 0.9


def read_load(text: str) -> Load | None:
    """The load of a server: of all its engines and models together, and the fullest KV cache among them. None if the
    text does not tell both who runs and who waits."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for name, written in _SERIES.findall(text):
        value = _number(written)
        if value is not None:
            values[name].append(value)
    if not values["num_requests_running"] or not values["num_requests_waiting"]:
        return None
    usage = [value for name in _USAGE for value in values[name]]
    preemptions = values["num_preemptions"]
    return Load(
        running=sum(values["num_requests_running"]),
        waiting=sum(values["num_requests_waiting"]),
        kv_usage=max(usage) if usage else None,
        preemptions=sum(preemptions) if preemptions else None,
    )


def _number(written: str) -> float | None:
    try:
        value = float(written)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
