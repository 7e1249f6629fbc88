"""Batches that a server runs as batches of its own: it has `/v1/files` and `/v1/batches`."""
