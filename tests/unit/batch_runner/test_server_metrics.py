"""What is read of a server's /metrics, whatever else stands there."""

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st

from batchyard.batch_runner.observation import Load
from batchyard.batch_runner.server_metrics import read_load
from batchyard.vllm_sim.settings import SimSettings
from batchyard.vllm_sim.testing import running_sim

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 7.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="m"} 4.0
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, Load(12, 3, 0.25, 7)),
        (
            VLLM.replace("kv_cache", "gpu_cache").replace("num_preemptions_total", "num_preemptions"),
            Load(12, 3, 0.25, 7),
        ),
        (VLLM + VLLM.replace('engine="0"', 'engine="1"').replace("0.25", "0.75"), Load(24, 6, 0.75, 14)),
        (VLLM.replace("vllm:", "vllm_"), Load(12, 3, 0.25, 7)),
        (VLLM.replace("\n", " 1700000000000\n"), Load(12, 3, 0.25, 7)),
        (VLLM.replace("\n", "\r\n"), Load(12, 3, 0.25, 7)),
        (VLLM.replace('"m"', r'"a} 5 \"b\" {\\"'), Load(12, 3, 0.25, 7)),
        (VLLM.replace("0.25", "NaN"), Load(12, 3, None, 7)),
        ("vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n", Load(1, 0)),
        ("vllm:num_requests_running 1\n", None),
        ("vllm:num_requests_running +Inf\nvllm:num_requests_waiting 0\n", None),
        ("vllm:num_requests_running -1\nvllm:num_requests_waiting 0\n", None),
        ("vllm:num_requests_running one\nvllm:num_requests_waiting 0\n", None),
        (VLLM.replace("num_requests", "requests"), None),
        ('{"detail":"Not Found"}', None),
        ("", None),
    ],
)
def test_the_load_is_read(text: str, load: Load | None) -> None:
    assert read_load(text) == load


@given(st.text(st.sampled_from('vllm:num_requests_running_waiting{}="\\ 0.1\n'), max_size=300))
def test_no_text_is_too_strange(text: str) -> None:
    read_load(text)


async def test_the_simulator_is_understood() -> None:
    async with running_sim(SimSettings(port=0)) as sim, ClientSession() as http:
        text = await (await http.get(f"{sim.url}/metrics")).text()
    assert read_load(text) == Load(0, 0, 0, 0)
