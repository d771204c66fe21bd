"""Private keys, and the only code that touches them.

* :mod:`.seed`: the secret that everything derives from, in a file of mode 0600.
* :mod:`.keys`: documented derivation paths.
* :mod:`.signer`: what the rest of the back may ask for.
"""
