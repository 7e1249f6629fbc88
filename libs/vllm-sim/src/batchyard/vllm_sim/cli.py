"""The command line of the simulator, which the project's command mounts as `batchyard sim`."""

from enum import StrEnum
from typing import Annotated

import typer
from pydantic import ValidationError

from batchyard.vllm_sim.server import Listening, run
from batchyard.vllm_sim.settings import DEFAULT_MODEL, SimSettings


class SchedulingPolicy(StrEnum):
    FCFS = "fcfs"
    PRIORITY = "priority"


def sim(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    model: Annotated[
        list[str] | None, typer.Option(help=f"Served model name; repeat for several (default: {DEFAULT_MODEL}).")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Ask for this key as a bearer token on /v1.")] = None,
    base_latency: Annotated[float, typer.Option(help="Seconds that every request takes.")] = 0.0,
    prompt_token_latency: Annotated[
        float, typer.Option(help="Seconds per prompt token that is not in the prefix cache.")
    ] = 0.0,
    token_latency: Annotated[float, typer.Option(help="Seconds per generated token.")] = 0.0,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that run at once; the others wait.")] = 256,
    scheduling_policy: Annotated[
        SchedulingPolicy, typer.Option(help="Who runs next: first come, or lowest `priority`.")
    ] = SchedulingPolicy.FCFS,
    max_model_len: Annotated[int, typer.Option(help="Context length in tokens.")] = 32768,
    answer_tokens: Annotated[int, typer.Option(help="Pad answers to this length; 0 does not.")] = 0,
    embedding_dimensions: Annotated[int, typer.Option(help="Length of embedding vectors.")] = 64,
    prefix_caching: Annotated[bool, typer.Option(help="Simulate automatic prefix caching.")] = True,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="A fault and its rate, such as status=503:0.05, reset:0.01, hang:0.01, slow:0.02, truncate:0.01, "
            "abort:0.01, bad-json:0.01 or delay=0.5:0.1; repeat for several."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses which requests the faults strike.")] = 0,
    slow_seconds: Annotated[float, typer.Option(help="Seconds that the fault `slow` adds.")] = 2.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print the start-up line.")] = False,
) -> None:
    """Serve a vLLM simulator: vLLM's API without a model, deterministic answers, faults on demand."""
    try:
        settings = SimSettings(
            host=host,
            port=port,
            models=tuple(model or [DEFAULT_MODEL]),
            api_key=api_key,
            base_latency=base_latency,
            prompt_token_latency=prompt_token_latency,
            token_latency=token_latency,
            max_num_seqs=max_num_seqs,
            scheduling_policy=scheduling_policy.value,
            max_model_len=max_model_len,
            answer_tokens=answer_tokens,
            embedding_dimensions=embedding_dimensions,
            prefix_caching=prefix_caching,
            faults=tuple(fault or []),
            seed=seed,
            slow_seconds=slow_seconds,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}") from None

    def announce(simulator: Listening) -> None:
        if not quiet:
            typer.echo(simulator.line)

    try:
        run(settings, announce)
    except OSError as error:
        typer.echo(f"Cannot listen on {host}:{port}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
