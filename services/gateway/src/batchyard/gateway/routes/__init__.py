"""The HTTP routes, thin: parse, call, reply."""
