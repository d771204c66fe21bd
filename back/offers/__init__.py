"""Offers (BOLT 12): ours are answered with invoices, others' are paid.

* ``rules``: what the settings say.
* ``book``: our offers.
* ``entrances``: the blinded paths of an invoice, by which payments reach us.
* ``issuer``: answers requests for invoices.
* ``payable``: from an invoice to what the sender pays.
* ``payer``: asks for an invoice, checks it, has it paid.
* ``service``: all of it together, and what the rest of the node uses.
"""
