"""Parameters of calls: one kind for each thing that is written in a form."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from shared import bolt11, bolt12
from shared.errors import LightningError, MalformedMessage, PeerError
from shared.units import ShortChannelId

__all__ = [
    "ADDRESS",
    "AMOUNT_MSAT",
    "AMOUNT_SAT",
    "ANY_INVOICE",
    "BOOLEAN",
    "CHANNEL_ID",
    "CHANNEL_IDS",
    "COUNT",
    "FEERATE",
    "HASH",
    "HEX",
    "HOST",
    "INVOICE",
    "NODE_ID",
    "NODE_IDS",
    "NODE_URI",
    "OFFER",
    "PERCENT",
    "PORT",
    "SECONDS",
    "SHORT_CHANNEL_ID",
    "SHORT_CHANNEL_IDS",
    "TEXT",
    "TIMESTAMP",
    "UNSUPPORTED",
    "UUID_",
    "BadRequest",
    "Form",
    "Kind",
    "NodeUri",
    "Parameter",
    "optional",
    "parse_form",
    "read_form",
    "read_invoice",
    "required",
]

MAX_FIELDS = 64
DEFAULT_PORT = 9735
Form = Mapping[str, Any]
"""What was given, read; a parameter that was not given is absent."""


class BadRequest(LightningError):
    """A parameter is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a parameter is written.

    Attributes:
        schema: its JSON schema, for the OpenAPI page.
        read: turns the text into a value; ValueError says what is wrong with it.
    """

    schema: Mapping[str, object]
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a call."""

    name: str
    kind: Kind
    is_required: bool
    description: str = ""


def required(name: str, kind: Kind, description: str = "") -> Parameter:
    """Declare a parameter that must be given."""
    return Parameter(name, kind, is_required=True, description=description)


def optional(name: str, kind: Kind, description: str = "") -> Parameter:
    """Declare a parameter that may be given."""
    return Parameter(name, kind, is_required=False, description=description)


def parse_form(body: bytes) -> list[tuple[str, str]]:
    """Take an ``application/x-www-form-urlencoded`` body apart.

    Raises:
        BadRequest: it is none.
    """
    if not body:
        return []
    try:
        return parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError as error:
        raise BadRequest(f"The form could not be read: {error}") from None


def read_form(given: "list[tuple[str, str]]", declared: "Mapping[str, Parameter]") -> Form:
    """Read what was given by the kinds that were declared.

    Raises:
        BadRequest: a parameter is missing, unknown, there twice, or wrong.
    """
    form: dict[str, Any] = {}
    for name, text in given:
        parameter = declared.get(name)
        if parameter is None:
            known = ", ".join(declared) or "none"
            raise BadRequest(f"There is no form field {name[:64]!r} here; there are: {known}")
        if name in form:
            raise BadRequest(f"The form field '{name}' is there twice")
        try:
            form[name] = parameter.kind.read(text)
        except ValueError as error:
            raise BadRequest(f"The form field '{name}' was malformed: {error}") from None
    for parameter in declared.values():
        if parameter.is_required and parameter.name not in form:
            raise BadRequest(f"Request is missing required form field '{parameter.name}'")
    return form


# --- kinds ------------------------------------------------------------------------------------


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    pattern = re.compile(r"[0-9]{1,20}")

    def read(text: str) -> int:
        if not pattern.fullmatch(text) or not lowest <= int(text) <= highest:
            raise ValueError(f"{text[:40]!r} is not a whole number from {lowest} to {highest}")
        return int(text)

    return read


def _decimal(highest: float) -> Callable[[str], float]:
    pattern = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

    def read(text: str) -> float:
        if not pattern.fullmatch(text) or not 0 < float(text) <= highest:
            raise ValueError(f"{text[:40]!r} is not a number above 0 and up to {highest:g}")
        return float(text)

    return read


def _bytes(size: int | None = None) -> Callable[[str], bytes]:
    pattern = re.compile(r"([0-9a-fA-F]{2})*")

    def read(text: str) -> bytes:
        if not pattern.fullmatch(text):
            raise ValueError("not hexadecimal")
        data = bytes.fromhex(text)
        if size is not None and len(data) != size:
            raise ValueError(f"{len(data)} bytes, there must be {size}")
        return data

    return read


def _node_id(text: str) -> bytes:
    data = _bytes(33)(text)
    if data[0] not in {2, 3}:
        raise ValueError("a node id begins with 02 or 03")
    return data


def _listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Comma separated, or a JSON array of strings."""

    def read_all(text: str) -> list[Any]:
        inner = text.strip().removeprefix("[").removesuffix("]")
        parts = [part.strip().strip('"') for part in inner.split(",")]
        return [read(part) for part in parts]

    return read_all


def _boolean(text: str) -> bool:
    match text.lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
    raise ValueError(f"{text[:40]!r} is neither true nor false")


def _uuid(text: str) -> UUID:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError(f"{text[:40]!r} is not a UUID")
    return UUID(text)


def _text(text: str) -> str:
    return text


def _words(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("it must be printable and not empty")
    return text


def _unsupported(_: str) -> None:
    raise ValueError("this version does not support it")


@dataclass(frozen=True, slots=True)
class NodeUri:
    """``nodeId@host:port``.

    Attributes:
        address: ``host:port``.
    """

    node_id: bytes
    address: str


_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,255})(?::(?P<port>\d{1,5}))?")


def _node_uri(text: str) -> NodeUri:
    node_id, at, address = text.strip().partition("@")
    match = _ADDRESS.fullmatch(address)
    if not at or match is None:
        raise ValueError("it must be nodeId@host:port")
    port = _whole(1, 0xFFFF)(match["port"]) if match["port"] else DEFAULT_PORT
    return NodeUri(_node_id(node_id), f"{match['host']}:{port}")


def _host(text: str) -> str:
    bare = text.strip()
    host = f"[{bare}]" if ":" in bare and not bare.startswith("[") else bare
    match = _ADDRESS.fullmatch(host)
    if match is None or match["port"]:
        raise ValueError(f"{text[:40]!r} is not a host name or address")
    return host


@lru_cache(maxsize=2048)
def read_invoice(text: str) -> bolt11.Invoice:
    """Decode a BOLT 11 invoice; the last ones are remembered.

    Raises:
        MalformedMessage: it may not be paid.
    """
    return bolt11.decode(text)


def _invoice(text: str) -> tuple[str, bolt11.Invoice]:
    stripped = text.strip()
    try:
        return stripped, read_invoice(stripped)
    except MalformedMessage as error:
        raise ValueError(str(error)) from None


def _any_invoice(text: str) -> tuple[str, bolt11.Invoice | bolt12.Invoice]:
    stripped = text.strip()
    if not stripped.lower().startswith("lni"):
        return _invoice(stripped)
    try:
        return stripped, bolt12.decode_invoice_text(stripped)
    except PeerError as error:
        raise ValueError(str(error)) from None


def _offer(text: str) -> bolt12.Offer:
    try:
        return bolt12.decode_offer(text.strip())
    except PeerError as error:
        raise ValueError(str(error)) from None


def _schema(kind: str, **more: object) -> dict[str, object]:
    return {"type": kind, **more}


_MAX_SAT = 21_000_000 * 100_000_000
_HEX = r"^[0-9a-fA-F]*$"

AMOUNT_MSAT = Kind(_schema("integer", minimum=0), _whole(0, _MAX_SAT * 1000))
AMOUNT_SAT = Kind(_schema("integer", minimum=0), _whole(0, _MAX_SAT))
COUNT = Kind(_schema("integer", minimum=0), _whole(0, 1_000_000))
U32 = Kind(_schema("integer", minimum=0, maximum=0xFFFFFFFF), _whole(0, 0xFFFFFFFF))
BLOCKS = Kind(_schema("integer", minimum=18, maximum=2016), _whole(18, 2016))
SECONDS = Kind(_schema("integer", minimum=1), _whole(1, 0xFFFFFFFF))
TIMESTAMP = Kind(_schema("integer", description="unix seconds"), _whole(0, 1 << 40))
PORT = Kind(_schema("integer", minimum=1, maximum=0xFFFF), _whole(1, 0xFFFF))
PERCENT = Kind(_schema("number"), _decimal(100))
FEERATE = Kind(_schema("number", description="sat per vbyte"), _decimal(10_000))
BOOLEAN = Kind(_schema("boolean"), _boolean)
TEXT = Kind(_schema("string"), _text)
ADDRESS = Kind(_schema("string"), _words)
HOST = Kind(_schema("string"), _host)
HEX = Kind(_schema("string", pattern=_HEX), _bytes())
HASH = Kind(_schema("string", pattern=_HEX, minLength=64, maxLength=64), _bytes(32))
NODE_ID = Kind(_schema("string", pattern=_HEX, minLength=66, maxLength=66), _node_id)
NODE_IDS = Kind(_schema("string", description="comma separated"), _listed(_node_id))
NODE_URI = Kind(_schema("string", example="02…@203.0.113.7:9735"), _node_uri)
CHANNEL_ID = HASH
CHANNEL_IDS = Kind(_schema("string", description="comma separated"), _listed(_bytes(32)))
SHORT_CHANNEL_ID = Kind(_schema("string", example="539268x845x1"), ShortChannelId.parse)
SHORT_CHANNEL_IDS = Kind(
    _schema("string", description="comma separated"), _listed(ShortChannelId.parse)
)
UUID_ = Kind(_schema("string", format="uuid"), _uuid)
INVOICE = Kind(_schema("string", description="BOLT 11"), _invoice)
ANY_INVOICE = Kind(_schema("string", description="BOLT 11 or BOLT 12"), _any_invoice)
OFFER = Kind(_schema("string", description="BOLT 12"), _offer)
UNSUPPORTED = Kind(_schema("string", description="not supported by this version"), _unsupported)
