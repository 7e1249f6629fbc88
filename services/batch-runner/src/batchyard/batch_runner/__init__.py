"""Drives batches against vLLM."""
