"""Payments: our invoices and what is paid on them, and what we pay.

Decisions are pure; the services around them only look up, commit and post.

* :mod:`.balances` ·: what a channel can send and receive now.
* :mod:`.receive` ·, :mod:`.multipart` ·: what to do with an HTLC that ends here, and with several
  that pay together; :mod:`.kind` ·: by what a payment proves itself.
* :mod:`.send` ·: may an invoice be paid, by which channel, with which onion, and what a failure
  means.
* :mod:`.hints` ·: route hints for private channels.
* :mod:`.invoices`, :mod:`.receiver`, :mod:`.sender`, :mod:`.sending`: the services.
* :mod:`.history`: what became of payments.
* :mod:`.decision` ·, :mod:`.route` ·: values that others share: how an HTLC ends, and routes.
* :mod:`.service`: :class:`~.service.Payments`, all of them behind one door.

What channels tell of HTLCs comes in through :mod:`back.htlcs`.
"""
