"""Who may do what on the fabric: the one declaration behind the broker's configuration. Pure.

``nats/users.conf`` and every certificate folder's ``users.conf`` are written from here. The broker
maps a certificate's e-mail name (``front@squall``) to the user of that name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shared.fabric.subjects import CONNECT_GROUP, ECDH_GROUP, front_token

__all__ = ["ROLES", "Role", "front_alone", "users_conf"]

DOMAIN = "squall"
"""The part after the @ in certificates' e-mail names."""


@dataclass(frozen=True, slots=True)
class Role:
    """The rights of one user.

    Attributes:
        user: name without the domain; also the second token of its inboxes.
        why: for the reader of the configuration.
        publish: subjects, wildcards allowed; none means nothing at all.
        subscribe: the same; ``"subject group"`` allows it in that queue group only.
        answers: may answer each request that it received, once, within a minute.
    """

    user: str
    why: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False


_READS_GRAPH = (
    "$JS.API.STREAM.INFO.GRAPH",
    "$JS.API.CONSUMER.CREATE.GRAPH.*",
    "$JS.API.CONSUMER.MSG.NEXT.GRAPH.*",
)
"""What following the routing table takes: to look at the stream, and a consumer to pull from."""
_MAKES_GRAPH = (
    "$JS.API.STREAM.CREATE.GRAPH",
    "$JS.API.STREAM.UPDATE.GRAPH",
)
_READS_EVENTS = (
    "$JS.API.STREAM.INFO.EVENTS",
    "$JS.API.CONSUMER.CREATE.EVENTS.>",
    "$JS.API.CONSUMER.INFO.EVENTS.*",
    "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*",
    "$JS.ACK.EVENTS.>",
    "$JS.FC.EVENTS.>",
)
"""What reading the event log takes: a consumer, with a filter or a durable one, its acks and its
flow control. The ``nats`` tool asks for a consumer's state before it reads on."""
_WRITES_EVENTS = (
    "$JS.API.STREAM.INFO.EVENTS",
    "$JS.API.STREAM.CREATE.EVENTS",
    "$JS.API.STREAM.UPDATE.EVENTS",
    "$JS.API.STREAM.MSG.GET.EVENTS",
)
"""Making the event log, and looking at its last messages: they may be there already."""


def _front(user: str, why: str, name: str) -> Role:
    """A front's rights; ``name`` is its own, or ``*`` where replicas share a certificate."""
    return Role(
        user,
        why,
        publish=(
            "ln.in.>",
            "ln.session.*.open",
            "ln.session.*.resume",
            f"ln.alive.{name}",
            "ln.key.ecdh",
            "ln.onion.*",
            "ln.gossip.>",
            *_READS_GRAPH,
        ),
        subscribe=(
            f"ln.out.{name}.>",
            "ln.hello.*",
            f"ln.connect {CONNECT_GROUP}",
            "ln.graph.self",
            f"ln.verdict.{name}",
            f"_INBOX.{user}.>",
        ),
        answers=True,
    )


ROLES: tuple[Role, ...] = (
    Role(
        "back",
        "owns shards; the only one that speaks to peers through fronts",
        publish=(
            "ln.out.>",
            "ln.hello.*",
            "ln.connect",
            "ln.graph.>",
            "ln.verdict.*",
            "ln.event.>",
            "ln.relay.>",
            *_READS_GRAPH,
            *_MAKES_GRAPH,
            *_WRITES_EVENTS,
        ),
        subscribe=(
            "ln.in.> back.*",
            "ln.session.*.open back.*",
            "ln.session.*.resume back.*",
            "ln.onion.* back.*",
            "ln.relay.> back.*",
            f"ln.key.ecdh {ECDH_GROUP}",
            "ln.alive.*",
            "ln.hello.*",
            "ln.gossip.>",
            "ln.graph.self",
            "_INBOX.back.>",
        ),
        answers=True,
    ),
    _front("front", "all fronts that share this certificate: one trust domain", "*"),
    Role(
        "tap",
        "watches decoded traffic",
        publish=(),
        # The third: six tokens have the messages of sessions only, so one pattern shows both ways.
        subscribe=("ln.in.>", "ln.out.>", "ln.*.*.*.*.*"),
    ),
    Role(
        "events",
        "follows the event log",
        publish=_READS_EVENTS,
        subscribe=("ln.event.>", "_INBOX.events.>"),
    ),
    Role(
        "admin",
        "looks after the broker's streams; watches heartbeats",
        publish=("$JS.API.>",),
        subscribe=("ln.hello.*", "ln.alive.*", "_INBOX.admin.>"),
    ),
)
"""Every cluster's users."""


def front_alone(name: str) -> Role:
    """Return the rights of one front with a certificate of its own.

    Raises:
        ValueError: no front can have this name.
    """
    return _front(f"front-{front_token(name)}", f"the front {name} alone", name)


def users_conf(roles: Iterable[Role] = ROLES) -> str:
    """Return the text of ``users.conf``, included by the broker's configuration in its account."""
    blocks = "".join(_block(role) for role in roles)
    return (
        "# Users of the fabric and their rights; written by Squall, do not edit.\n"
        "# A client is the user whose name is the e-mail name in its certificate.\n"
        f"users = [\n{blocks}]\n"
    )


def _block(role: Role) -> str:
    publish = _allow(role.publish) if role.publish else '{ deny: ">" }'
    answers = '\n      allow_responses: { max: 1, expires: "1m" }' if role.answers else ""
    return (
        f"  # {role.why}\n"
        f'  {{ user: "{role.user}@{DOMAIN}", permissions: {{\n'
        f"      publish: {publish}\n"
        f"      subscribe: {_subscribe(role)}{answers}\n"
        "  } }\n"
    )


def _subscribe(role: Role) -> str:
    """A role without a queue group of its own may join none: it would take messages from others."""
    if any(" " in subject for subject in role.subscribe):
        return _allow(role.subscribe)
    return _allow(role.subscribe).removesuffix(" }") + ', deny: "> >" }'


def _allow(subjects: tuple[str, ...]) -> str:
    lines = "".join(f'        "{subject}"\n' for subject in subjects)
    return f"{{ allow: [\n{lines}      ] }}"
