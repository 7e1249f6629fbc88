"""OpenAI-compatible HTTP edge of Batchyard."""
