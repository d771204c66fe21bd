"""The Bitcoin chain, through one bitcoind.

* :mod:`.interface` - what the rest of the back may ask; :mod:`.events` - what it is told
* :mod:`.service` - all of it as one: start there
* :mod:`.bitcoind` - RPC; :mod:`.zmq` - what wakes us; :mod:`.wallet`, :mod:`.feerates`,
  :mod:`.publisher`
* :mod:`.watcher` - the loop that follows the chain; it decides nothing: :mod:`.tip` (reorgs),
  :mod:`.watches` (what to tell) and :mod:`.block` (raw blocks) are pure
* :mod:`.regtest` - a bitcoind of our own, for the demo and the tests
"""
