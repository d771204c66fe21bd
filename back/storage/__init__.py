"""The database: one table declaration, one writer, one lease.

* :mod:`.tables` declares every table once, for SQLite and PostgreSQL.
* :mod:`.database` opens a database; :mod:`.driver` is the little that differs between the two.
* :mod:`.statements` are row changes as values: :class:`~.statements.Write`.
* :mod:`.committer` makes them durable: one thread, group commit, every commit fenced by the lease.
* :mod:`.lease` says whose the database is; :mod:`.standby` waits for it; :mod:`.heart` keeps it.
* :mod:`.migration` brings an older schema up to date.
* :mod:`.store` is what the rest of the back holds; :mod:`.channels`, :mod:`.invoices`,
  :mod:`.payments`, :mod:`.blocks`, :mod:`.peers`, :mod:`.outbox`, :mod:`.published` map values to
  rows and back.

Nothing writes without the lease, and nothing but the committer writes the node's state.
"""
