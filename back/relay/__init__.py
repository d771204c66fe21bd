"""Forwarding: HTLCs that come in on one channel and go out on another (BOLT 4, BOLT 2, BOLT 7).

* :mod:`.onion` ·: what a received onion asks of us: a payment to us, or a forward.
* :mod:`.terms` ·, :mod:`.limits` ·: what we take for it, and how much of it we let one peer do.
* :mod:`.forward` ·: may this HTLC be forwarded, by which channels, and what to answer if not.
* :mod:`.handoff` ·: the messages between the owners of the two channels.
* :mod:`.upstream`, :mod:`.downstream`: the two sides of a forward, each as it stands alone.
* :mod:`.service`: both, and the sink of the channels' facts.

The owner of the incoming channel is *upstream*, that of the outgoing one *downstream*; they may be
two backs. The pairing is a row (:mod:`back.storage.forwards`) of the commit that holds the outgoing
add. Until that commit the HTLC is undecided and is asked for again after a restart; from then on
upstream waits for an outcome, which downstream repeats until upstream has made it durable.
"""
