"""The channel: BOLT 2 as a pure function of values.

Read in this order:

* :mod:`.model`: what a channel is. One frozen value; the next one shares what did not change.
* :mod:`.events` and :mod:`.effects`: what can happen to it, and what it asks of the world.
* :mod:`.machine`: ``apply(channel, event) -> Step`` and what the shell calls around it; a step and
  the table of which message is legal when are in :mod:`.rules`.
* :mod:`.opening`, :mod:`.htlc` and :mod:`.outgoing`, :mod:`.commitments`, :mod:`.fees`,
  :mod:`.reestablish`, :mod:`.closing`, :mod:`.onchain`, :mod:`.announcement`: the rules, one theme
  of BOLT 2 a file; :mod:`.policy`: what we accept.
* :mod:`.spec`: what each commitment holds, from the states alone, and what more it has room for.
* :mod:`.answers`: the signer's answers take the place of a step's requests.

Three rules hold everywhere:

1. **Persist before you speak.** The effects of a step run after its channel is durable.
2. **What we sent is signed.** Our own updates wait (adds in ``Channel.queue``, removals as
   ``Htlc.resolution``) until a signature may go with them: updates and ``commitment_signed`` leave
   as one batch, stored byte for byte, and are what a reconnection sends again. So no update of ours
   is ever "sent but not signed".
3. **No private key here.** A step that needs one holds a *request*; :func:`machine.fill` puts the
   signer's answer in its place before the commit.
"""
