"""How fronts and back talk over NATS (docs/fabric.md).

Pure, from small to large: ``subjects`` spells every subject; ``envelope`` and ``requests`` are what
is in a payload; ``numbering``, ``stream``, ``session`` make a lossy broker carry BOLT 2; ``ties``
says which of two connections stays, ``owners`` what a front knows of backs; ``roles`` and
``configuration`` say what the broker allows.

With I/O: ``interface`` is what the processes use, ``client`` provides it over nats-py, ``memory``
for tests; ``tls``, ``certificates`` and its command; ``server`` starts a broker of our own.
"""
