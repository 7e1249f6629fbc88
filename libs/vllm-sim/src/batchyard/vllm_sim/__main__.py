"""`python -m batchyard.vllm_sim`: the simulator as a command of its own."""

import typer

from batchyard.vllm_sim.cli import sim

if __name__ == "__main__":
    typer.run(sim)
