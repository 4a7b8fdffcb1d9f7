"""Alembic's entry: it runs the steps inside the transaction of whoever opened the store (see `opening.py`)."""

from alembic import context

from tomtat.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
context.run_migrations()
