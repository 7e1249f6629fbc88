"""Contracts, subjects, IDs, settings, NATS and object storage shared by Batchyard's services."""
