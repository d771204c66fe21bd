"""What this node says of itself to the network (BOLT 7): its channels, their terms, itself.

Whether an announcement is due is decided in :mod:`.updates` and :mod:`.nodes`, which are pure;
:mod:`.service` looks at the channels, has announcements signed, stores them, and hands them on.
"""
