"""What users are told: facts of a commit, numbered, on the stream EVENTS and on `/ws`.

* :mod:`.types` declares every type once: Eclair's name, its fields, what it means.
* :mod:`.facts` makes the write of an event from plain values, for the very commit of its fact.
* :mod:`.publisher` brings rows to the stream, in order, each once, and deletes them.
* :mod:`.hub` hands committed events to websockets.

The functions of :mod:`.facts` are here under their names: ``from back import events``, then
``events.payment_received(...)``.
"""

from back.events.facts import (
    FailedTry,
    IncomingPart,
    OutgoingPart,
    Relayed,
    ReplyPath,
    Sent,
    SentPart,
    channel_closed,
    channel_confirmed,
    channel_created,
    channel_funding_created,
    channel_opened,
    channel_ready,
    channel_state_changed,
    onion_message_received,
    onion_tlvs_json,
    part_id,
    payment_failed,
    payment_received,
    payment_relayed,
    payment_sent,
    payment_settling_onchain,
)

__all__ = [
    "FailedTry",
    "IncomingPart",
    "OutgoingPart",
    "Relayed",
    "ReplyPath",
    "Sent",
    "SentPart",
    "channel_closed",
    "channel_confirmed",
    "channel_created",
    "channel_funding_created",
    "channel_opened",
    "channel_ready",
    "channel_state_changed",
    "onion_message_received",
    "onion_tlvs_json",
    "part_id",
    "payment_failed",
    "payment_received",
    "payment_relayed",
    "payment_sent",
    "payment_settling_onchain",
]
