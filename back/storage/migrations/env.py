"""Alembic's environment: runs on the connection that the caller put into the configuration.

To write a revision: ``alembic.command.revision(config, autogenerate=True)`` with a connection to an
up-to-date database, then edit what it made.
"""

from alembic import context

from back.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
