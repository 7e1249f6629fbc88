"""A soak: batches through a whole Batchyard while its processes are killed, and the truth checked from outside."""
