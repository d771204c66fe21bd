"""Onion messages (BOLT 4 § Onion Messages): relayed, received, sent, answered.

* ``replies``: the paths on which answers come back, and who waits for them.
* ``topology``: through which nodes a message reaches another.
* ``outbox``: what is said to peers, after a commit has shown that they are ours.
* ``service``: all of it together, and what the rest of the node uses.
"""
