"""Onion messages, as Eclair has them."""

import re

from pydantic import ValidationError

from back.api.calls import call
from back.api.forms import (
    BOOLEAN,
    HEX,
    NODE_ID,
    NODE_IDS,
    BadRequest,
    Form,
    Kind,
    optional,
    required,
)
from back.api.interface import ApiNode
from back.onion_messages.wiring import tlvs_json
from shared.crypto.onion_message import decode_contents
from shared.errors import CommandError, MalformedMessage
from shared.wire import BlindedPath
from shared.wire.codec import Reader
from shared.wire.record import Nested, reasons

_PATH = Nested(BlindedPath)
_HEX = re.compile(r"([0-9a-fA-F]{2})+")


def _blinded_path(text: str) -> BlindedPath:
    if not _HEX.fullmatch(text):
        raise ValueError("not hexadecimal")
    reader = Reader(bytes.fromhex(text))
    try:
        fields = _PATH.read(reader)
    except MalformedMessage as error:
        raise ValueError(str(error)) from None
    if reader.left:
        raise ValueError(f"{reader.left} bytes too many")
    try:
        return BlindedPath.model_validate(fields)
    except ValidationError as error:
        raise ValueError(reasons(error)) from None


BLINDED_PATH = Kind(
    {"type": "string", "description": "a blinded_path of BOLT 4, in hex"}, _blinded_path
)


@call(
    "sendonionmessage",
    "messages",
    optional("recipientNode", NODE_ID),
    optional("recipientBlindedRoute", BLINDED_PATH, "instead of recipientNode"),
    optional("intermediateNodes", NODE_IDS, "through whom, the first connected to us"),
    required("expectsReply", BOOLEAN),
    required("content", HEX, "a TLV stream, without types 2 and 4"),
)
async def sendonionmessage(node: ApiNode, form: Form) -> object:
    """Send an onion message, and wait for its answer if there may be one."""
    if "recipientNode" in form and "recipientBlindedRoute" in form:
        raise BadRequest("Only one of recipientNode and recipientBlindedRoute must be provided")
    recipient = form.get("recipientNode") or form.get("recipientBlindedRoute")
    if recipient is None:
        raise BadRequest("You must provide recipientNode or recipientBlindedRoute")
    try:
        contents = decode_contents(form["content"])
    except MalformedMessage as error:
        why = f"the `content` field is invalid, it must contain encoded tlvs: {error}"
        return {"sent": False, "failureMessage": why}
    messages, through = node.onion_messages, form.get("intermediateNodes")
    try:
        if not form["expectsReply"]:
            await messages.send(recipient, contents, through=through)
            return {"sent": True}
        answer = await messages.ask(recipient, contents, through=through)
    except CommandError as error:
        return {"sent": False, "failureMessage": str(error)}
    if answer is None:
        return {"sent": True, "failureMessage": "No response"}
    return {"sent": True, "response": {"tlvs": tlvs_json(answer)}}
