"""Keys and signatures: the only code that touches private keys.

* :mod:`.seed`: the seed file.
* :mod:`.keys`: derivation paths, and what a seed alone can recover.
* :mod:`.guard`: which of our own commitments may still be signed.
* :mod:`.channel_signer`: the keys of one channel at work.
* :mod:`.signer`: :class:`~.signer.Signer`, the face of all that to the rest of the back.
* :mod:`.answers`: the answers to the requests in a channel's step.

Signatures are 64 bytes compact, RFC 6979, low-S. Nothing here has a secret in its ``repr``.
"""
