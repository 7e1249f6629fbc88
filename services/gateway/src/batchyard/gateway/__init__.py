"""The HTTP edge: OpenAI's Files and Batch API, in front of services that speak NATS."""
