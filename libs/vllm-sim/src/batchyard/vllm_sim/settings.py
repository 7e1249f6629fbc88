"""What one simulator is told at start."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from batchyard.vllm_sim.faults import parse_rates

DEFAULT_MODEL = "my-vllm-model"

Seconds = Annotated[float, Field(ge=0)]


class SimSettings(BaseModel):
    """The settings of one simulator. Latencies are seconds, lengths are tokens unless a name says otherwise.

    `models` are the served names, as `--served-model-name` of vLLM: all answer, and the first one labels the
    metrics. `faults` are rates in the grammar of `batchyard.vllm_sim.faults`. `answer_tokens` pads every answer
    to that many tokens, for benchmarks; 0 leaves the short natural answer. `refuse_priority` answers a `priority` other
    than 0 with a 400 unless requests are scheduled by it, as vLLM's engine V0 does; V1 takes and ignores it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    models: tuple[str, ...] = Field(default=(DEFAULT_MODEL,), min_length=1)
    api_key: str | None = None
    enable_request_id_headers: bool = False

    base_latency: Seconds = 0.0
    prompt_token_latency: Seconds = 0.0
    token_latency: Seconds = 0.0
    max_num_seqs: int = Field(default=256, ge=1)
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    refuse_priority: bool = False
    max_model_len: int = Field(default=32768, ge=2)
    answer_tokens: int = Field(default=0, ge=0)
    embedding_dimensions: int = Field(default=64, ge=1, le=4096)

    prefix_caching: bool = True
    block_size: int = Field(default=16, ge=1)
    cache_blocks: int = Field(default=65536, ge=1)

    faults: tuple[str, ...] = ()
    seed: int = 0
    slow_seconds: Seconds = 2.0

    log_size: int = Field(default=100_000, ge=1)
    remembered_prompts: int = Field(default=200_000, ge=1)
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)

    @field_validator("faults")
    @classmethod
    def _faults_can_be_read(cls, faults: tuple[str, ...]) -> tuple[str, ...]:
        parse_rates(faults)
        return faults
