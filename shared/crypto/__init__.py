"""Cryptography of the BOLTs: pure functions, randomness as an argument.

* :mod:`.signature`: ECDSA as BOLT 2, 7 and 11 use it.
* :mod:`.keys`: keys derived per commitment (BOLT 3).
* :mod:`.shachain`: revocation secrets and their compact store (BOLT 3).
* :mod:`.noise`: the transport's handshake and frames (BOLT 8), with the node key elsewhere.
* :mod:`.sphinx`, :mod:`.payload`, :mod:`.failures`: onions (BOLT 4).
"""
