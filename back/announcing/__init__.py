"""What this node says of itself to the network (BOLT 7): its channels, their terms, itself.

Whether an announcement is due is decided in :mod:`.updates`, :mod:`.maximum` and :mod:`.nodes`,
which are pure; :mod:`.fees` keeps what the operator wants of each channel. :mod:`.service` looks at
the channels, has announcements signed, stores them, and hands them on, :mod:`.own_node` does so for
the node; relaying asks the service which terms an HTLC may meet.
"""
