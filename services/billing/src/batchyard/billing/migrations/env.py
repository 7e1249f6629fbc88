"""Alembic's entry point: it executes this file for every command. Only `migrations.upgrade` runs it."""

from alembic import context

from batchyard.billing.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
