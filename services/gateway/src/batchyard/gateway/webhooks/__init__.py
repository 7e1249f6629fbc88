"""Webhooks: which endpoints there are, and events brought to them (docs/webhooks.md)."""
