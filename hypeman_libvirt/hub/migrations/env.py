"""Alembic runs this to migrate; the transaction is the caller's, all or nothing."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
