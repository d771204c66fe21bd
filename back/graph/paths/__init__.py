"""Path-finding: where payments go (docs/path-finding.md).

* :mod:`.network` ·: the routing table as a graph of numbers.
* :mod:`.experience` ·: what past attempts taught, fading with time.
* :mod:`.search` ·: one route, by Dijkstra from the payee backwards.
* :mod:`.split` ·: several routes that together carry an amount.
* :mod:`.worker`: the process that does it. :mod:`.service`: the back's end of its pipe.
"""
