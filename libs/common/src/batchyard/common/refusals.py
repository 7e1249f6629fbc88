"""Refusals that several services count under one name; each of them by one service."""

from prometheus_client import Counter

STORAGE_REFUSALS = Counter("batchyard_storage_refusals", "Files refused for want of room in a storage quota")
