"""The channel: BOLT 2 as a pure function of values.

Read in this order:

* :mod:`.model`: what a channel is. One frozen value; the next one shares what did not change.
* :mod:`.events` and :mod:`.effects`: what can happen to it, and what it asks of the world.
* :mod:`.machine`: ``apply(channel, event) -> Step``; the table of which message is legal when.
* :mod:`.opening`, :mod:`.htlc`, :mod:`.commitments`, :mod:`.reestablish`, :mod:`.closing`,
  :mod:`.onchain`: the rules, one BOLT 2 theme a file; :mod:`.policy`: what we accept.

Three rules hold everywhere:

1. **Persist before you speak.** The effects of a step run after its channel is durable.
2. **What we sent is signed.** Our own updates wait in ``Channel.queue`` until a signature may go
   with them: updates and ``commitment_signed`` leave as one batch, stored byte for byte, and are
   what a reconnection sends again. So no update of ours is ever "sent but not signed".
3. **No private key here.** A step that needs one holds a *request*; :func:`machine.fill` puts the
   signer's answer in its place before the commit.
"""
