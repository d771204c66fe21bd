"""Fixtures that the tests of this folder share."""

from support.databases import database, database_url, hooks

__all__ = ["database", "database_url", "hooks"]
