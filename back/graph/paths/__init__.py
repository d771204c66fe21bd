"""Path-finding: where payments go (docs/path-finding.md).

* :mod:`.network` ·: the routing table as a graph of numbers.
* :mod:`.experience` ·: what past attempts taught, fading with time.
* :mod:`.question` ·: a request, and what it adds to the graph and takes from it.
* :mod:`.search` ·: one route of least cost, from both ends.
* :mod:`.strict` ·: one route where limits hide it from that.
* :mod:`.split` ·: several routes that together carry an amount.
* :mod:`.worker`: the process that does it. :mod:`.service`: the back's end of its pipe.
"""
