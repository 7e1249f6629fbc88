"""A server shaped like vLLM without a model, with faults on demand."""
