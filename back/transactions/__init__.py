"""Bitcoin transactions of a channel (BOLT 3). Pure.

* :mod:`.scripts`: every script and scriptpubkey.
* :mod:`.transaction`: reading, serializing and BIP 143 digests.
* :mod:`.weights`: expected weights, fees, dust, trimming.
* :mod:`.commitment`: commitment transactions, and the HTLC transactions that spend them.
* :mod:`.witness`: final, signed forms.
* :mod:`.closing`: cooperative closes.

Amounts are satoshis unless a name says otherwise; txids are in internal byte order; signatures are
64 bytes compact until they enter a witness.
"""
