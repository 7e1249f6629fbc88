"""The batchyard command: the whole system on one machine."""
