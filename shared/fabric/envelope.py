"""What travels on a session's subjects: an envelope around one message or one control.

``{"v":1,"session":"<32 hex>","front":"f1","epoch":5,"seq":7,"ack":3,"message":{…}}``; ``front``
only on what a front sends, so that a message of an unknown session can be answered. The header is
read without parsing the message, because ordering, duplicates and acks are decided on the header
alone; the message is validated once, by
`decode_body`, when it is delivered. ``seq`` 0 marks what is not numbered.

Raises:
    FabricError: from everything here that reads, when another program or version wrote the bytes.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, to_json as json_bytes

from shared.errors import FabricError, MalformedMessage
from shared.wire import Init, Message, from_json, message_by_name

__all__ = [
    "CONTROLS",
    "NUMBERED_CONTROLS",
    "VERSION",
    "Ack",
    "Close",
    "Connected",
    "Control",
    "Direction",
    "Disconnected",
    "Envelope",
    "FabricModel",
    "Reason",
    "Resend",
    "Reset",
    "SessionId",
    "Unreachable",
    "decode",
    "decode_body",
    "decode_control",
    "decode_message",
    "encode",
    "first_error",
    "is_known",
]

VERSION = 1
"""Version of the envelope and of all controls; raised when old programs would misread new ones."""

_HEADER = re.compile(
    rb'\{"v":(\d{1,9}),"session":"([0-9a-f]{32})"(?:,"front":"([A-Za-z0-9_-]{1,64})")?'
    rb',"epoch":(\d{1,18}),"seq":(\d{1,18}),"ack":(\d{1,18}),"message":(\{.*\})\}',
    re.DOTALL,
)

SessionId = Annotated[bytes, Field(min_length=16, max_length=16)]
NodeId = Annotated[bytes, Field(min_length=33, max_length=33)]
FrontName = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 60)]


class FabricModel(BaseModel):
    """Base of what this package puts on the fabric: frozen, strict, bytes as hex in JSON."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        ser_json_bytes="hex",
        val_json_bytes="hex",
    )

    def to_bytes(self) -> bytes:
        """Return the JSON that travels."""
        return self.__pydantic_serializer__.to_json(self, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message or control as it travels.

    Attributes:
        session: 16 bytes, chosen by the front, one per TCP connection.
        epoch: of the shard's owner, as the sender knows it; 0 if it knows none.
        seq: number of this message in its direction from 1; 0 for unnumbered controls.
        ack: highest number of the other direction that the sender has received (back) or written
            out (front).
        body: JSON of the message or control, not parsed yet.
        front: who sent it, when a front did; else ``""``.
    """

    session: bytes
    epoch: int
    seq: int
    ack: int
    body: bytes
    front: str = ""


def encode(envelope: Envelope) -> bytes:
    """Return the payload; the body is JSON already (`wire.to_json`, `FabricModel.to_bytes`)."""
    e = envelope
    origin = b',"front":"%b"' % e.front.encode() if e.front else b""
    return b'{"v":1,"session":"%b"%b,"epoch":%d,"seq":%d,"ack":%d,"message":%b}' % (
        e.session.hex().encode(),
        origin,
        e.epoch,
        e.seq,
        e.ack,
        e.body,
    )


def decode(payload: bytes) -> Envelope:
    """Read the header of a payload; any JSON layout is accepted, ours is the fast one."""
    match = _HEADER.fullmatch(payload)
    if match is None:
        return _decode_foreign(payload)
    version, session, front, epoch, seq, ack, body = match.groups()
    if version != b"1":
        raise FabricError(f"envelope version {int(version)}, this program speaks {VERSION}")
    return Envelope(
        bytes.fromhex(session.decode()),
        int(epoch),
        int(seq),
        int(ack),
        body,
        (front or b"").decode(),
    )


class _Foreign(FabricModel):
    """The envelope in any layout, as a person with the nats CLI may write it."""

    v: int
    session: SessionId
    front: FrontName = ""
    epoch: Count
    seq: Count
    ack: Count
    message: dict[str, JsonValue]


def _decode_foreign(payload: bytes) -> Envelope:
    try:
        read = _Foreign.model_validate_json(payload)
        body = json_bytes(read.message)
    except (ValidationError, PydanticSerializationError) as error:
        raise FabricError(f"not an envelope: {first_error(error)}") from None
    if read.v != VERSION:
        raise FabricError(f"envelope version {read.v}, this program speaks {VERSION}")
    return Envelope(read.session, read.epoch, read.seq, read.ack, body, read.front)


# --- controls of a session ----------------------------------------------------------------------


class Direction(StrEnum):
    """Who made the TCP connection."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Reason(StrEnum):
    """Why a session ended, for logs and metrics; the details are prose beside it."""

    PEER_CLOSED = "peer_closed"
    """The TCP connection ended or broke."""
    PROTOCOL = "protocol"
    """The peer broke a BOLT; a `warning` or `error` went before."""
    CLOSED_BY_OWNER = "closed_by_owner"
    """The back asked for it."""
    REPLACED = "replaced"
    """A newer connection of the same peer."""
    UNKNOWN_SESSION = "unknown_session"
    """The other side does not know the session."""
    UNACKED = "unacked"
    """The other side of the fabric acknowledged nothing for ten seconds."""
    INCOMPLETE = "incomplete"
    """A message that was missing did not come within ten seconds of asking."""
    OVER_WINDOW = "over_window"
    """The peer sent more than may be under way, for five seconds."""
    NEW_EPOCH = "new_epoch"
    """Another owner; what passed with the former one is settled by `channel_reestablish`."""
    OWNER_SILENT = "owner_silent"
    """No hello of an owner for thirty seconds."""
    INVALID = "invalid"
    """Something arrived in the session that could not be understood."""
    DRAINING = "draining"
    """The front is being stopped."""
    REFUSED = "refused"
    """The owner did not let the peer in."""


class Connected(FabricModel):
    """First numbered message of a session: both inits went over the TCP connection."""

    front: FrontName
    direction: Direction
    address: str
    """Remote ``host:port`` as seen by the front; behind a proxy, what the proxy says."""
    our_init: Init
    their_init: Init
    dial_id: Annotated[bytes, Field(min_length=16, max_length=16)] | None = None
    """The dial that the back ordered, for an outbound connection."""


class Disconnected(FabricModel):
    """The last numbered message: the TCP connection is closed; with seq 0: no such session here."""

    reason: Reason
    detail: str = ""


class Ack(FabricModel):
    """A bare acknowledgement; the number stands in the envelope."""


class Resend(FabricModel):
    """Please send these numbers again; what was acknowledged meanwhile is left out."""

    from_seq: Annotated[int, Field(ge=1)]
    to_seq: Annotated[int, Field(ge=1)] | None = None
    """Last number missing, None for all from ``from_seq`` on."""


class Close(FabricModel):
    """Owner to front: write everything up to ``last_seq``, then close the TCP connection."""

    last_seq: Count
    reason: Reason
    detail: str = ""


class Reset(FabricModel):
    """Owner to front: this session does not exist here; close the TCP connection."""

    reason: Reason
    detail: str = ""


class Unreachable(FabricModel):
    """Front to owner, unnumbered, the dial's id as the session: no connection came of a dial."""

    dial_id: Annotated[bytes, Field(min_length=16, max_length=16)]
    detail: str


Control = Connected | Disconnected | Ack | Resend | Close | Reset | Unreachable
"""Everything in a session that is not a BOLT message."""

CONTROLS: dict[str, type[Control]] = {
    "connected": Connected,
    "disconnected": Disconnected,
    "ack": Ack,
    "resend": Resend,
    "close": Close,
    "reset": Reset,
    "unreachable": Unreachable,
}
"""Controls by their last subject token; no BOLT message has one of these names."""

NUMBERED_CONTROLS: frozenset[Literal["connected", "disconnected"]] = frozenset(
    {"connected", "disconnected"}
)


def is_known(name: str) -> bool:
    """Say whether a subject's last token is a control or a BOLT message of ours."""
    if name in CONTROLS:
        return True
    try:
        message_by_name(name)
    except (KeyError, MalformedMessage):
        return False
    return True


def decode_body(name: str, body: bytes) -> Message | Control:
    """Validate the body of an envelope by the name in its subject."""
    return decode_control(name, body) if name in CONTROLS else decode_message(name, body)


def decode_control(name: str, body: bytes) -> Control:
    """Validate the body of a control."""
    if name not in CONTROLS:
        raise FabricError(f"{name!r} is not a control of this version")
    try:
        return CONTROLS[name].model_validate_json(body)
    except ValidationError as error:
        raise FabricError(f"{name} is malformed: {first_error(error)}") from None


def decode_message(name: str, body: bytes) -> Message:
    """Validate the body of a BOLT message."""
    try:
        return from_json(name, body)
    except ValidationError as error:
        raise FabricError(f"{name} is malformed: {first_error(error)}") from None
    except (KeyError, MalformedMessage) as error:
        raise FabricError(f"{name} is unknown or malformed: {error}") from None


def first_error(error: Exception) -> str:
    """One line of an error, without the input."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    return str(error).partition("\n")[0][:200]
