"""The books."""

import time

from back.api.calls import call
from back.api.forms import COUNT, NODE_ID, TIMESTAMP, BadRequest, Form, optional
from back.api.interface import ApiNode
from back.api.slices import Book
from back.events.books import RelayStats, Span

DAY_S = 86_400
BEST = 10
"""Peers shown where nobody says how many."""

PAGES = (
    optional("count", COUNT, "at most so many"),
    optional("skip", COUNT, "after leaving out so many; needs count"),
    optional("from", TIMESTAMP, "a day ago by default"),
    optional("to", TIMESTAMP, "now by default"),
)


@call("audit", "payments", *PAGES)
async def audit(node: ApiNode, form: Form) -> object:
    """List payments that were sent, received and relayed."""
    books, span = node.events.books, _span(form)
    return Book(
        {
            "sent": books.sent(span),
            "received": books.received(span),
            "relayed": books.relayed(span),
        }
    )


@call(
    "relaystats",
    "payments",
    *PAGES,
    optional("nodeId", NODE_ID, "this peer alone"),
)
async def relaystats(node: ApiNode, form: Form) -> object:
    """Tell what each peer brought in relayed payments, the best first."""
    span = _span(form)
    stats = await node.events.books.relay_stats(span)
    if (wanted := form.get("nodeId")) is not None:
        one = next((peer for peer in stats if peer.node_id == wanted), RelayStats(wanted))
        return one.shown(span)
    count = span.count if span.count is not None else BEST
    return [peer.shown(span) for peer in stats[span.skip : span.skip + count]]


def _span(form: Form) -> Span:
    if "skip" in form and "count" not in form:
        raise BadRequest("Request is missing required form field 'count'")
    now = int(time.time())
    since, until = form.get("from", now - DAY_S), form.get("to", now)
    return Span(since, until, form.get("count"), form.get("skip", 0))
