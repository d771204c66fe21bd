"""BOLT 8 without its socket (``connection``), the socket (``stream``), and what keeps it alive.

``proxy`` reads the header with which a load balancer names the peer's address.
"""
