"""Turns finished batches into ledger entries."""
