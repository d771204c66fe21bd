"""The API of a test node, served for real; and a caller that speaks as eclair-cli does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp
from pydantic import SecretStr
from support.payment_nodes import Node

from back.announcing.nodes import OurNode
from back.announcing.service import Announcing
from back.announcing.updates import Terms
from back.api.app import create_app
from back.api.server import ApiServer
from back.chain.feerates import Feerates
from back.chain.wallet import Balance
from back.events.books import Books
from back.events.hub import EventHub
from shared.chain import REGTEST
from shared.errors import BitcoindUnavailable, CommandError
from shared.features import FeatureSet
from shared.gossip.table import Table

__all__ = ["Api", "Wallet", "api_of", "served"]

PASSWORD = "correct horse"


@dataclass
class Wallet:
    """What the API asks of the wallet, and nothing behind it.

    Attributes:
        is_away: bitcoind does not answer.
        sent: (address, satoshis, feerate).
    """

    is_away: bool = False
    sent: list[tuple[str, int, int]] = field(default_factory=list)

    async def balance(self) -> Balance:
        if self.is_away:
            raise BitcoindUnavailable("bitcoind does not answer")
        return Balance(confirmed_sat=123_456, unconfirmed_sat=789)

    async def new_address(self) -> str:
        return "bcrt1qnew"

    async def send(self, address: str, amount_sat: int, feerate_per_kw: int) -> bytes:
        if not address.startswith("bcrt1"):
            raise CommandError("not an address of this network")
        self.sent.append((address, amount_sat, feerate_per_kw))
        return bytes(range(32))


@dataclass
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: Any


@dataclass
class Api:
    """A served API.

    Attributes:
        node: as the API sees it.
    """

    url: str
    node: Any
    http: aiohttp.ClientSession
    wallet: Wallet

    async def post(
        self, path: str, *, password: str | None = PASSWORD, user: str = "", **form: object
    ) -> Answer:
        """Call, whatever comes back."""
        headers = {}
        if password is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(user, password)
        data = {key: str(value) for key, value in form.items()}
        return await self.request("POST", path, data=data, headers=headers)

    async def request(self, method: str, path: str, **more: Any) -> Answer:
        """Send any request."""
        async with self.http.request(method, f"{self.url}/{path}", **more) as answer:
            is_json = answer.content_type == "application/json"
            body = await answer.json() if is_json else await answer.text()
            return Answer(answer.status, body, answer.headers)

    async def call(self, path: str, **form: object) -> Any:
        """Call and return the answer's JSON; it must be well."""
        answer = await self.post(path, **form)
        assert answer.status == 200, answer
        return answer.body

    async def refused(self, path: str, status: int = 400, **form: object) -> str:
        """Call and return the error's words."""
        answer = await self.post(path, **form)
        assert answer.status == status, answer
        assert list(answer.body) == ["error"]
        return str(answer.body["error"])


def announcing_of(node: Node) -> Announcing:
    """Announcements of a test node, that nobody hears; a test looks at channels itself."""
    return Announcing(
        node.store,
        node.signer,
        node.channels.runners,
        SimpleNamespace(announce_own=list),
        OurNode.of(node.signer.node_id, "alice", "#49daaa", FeatureSet(), ()),
        Terms(),
    )


def api_node(node: Node, wallet: Wallet) -> Any:
    """A node as the API sees it."""
    settings = SimpleNamespace(
        alias="alice",
        color="#49daaa",
        network=REGTEST,
        public_addresses=("203.0.113.7:9735",),
        api_password=SecretStr(PASSWORD),
    )
    return SimpleNamespace(
        settings=settings,
        signer=node.signer,
        chain=SimpleNamespace(wallet=wallet, feerates=Feerates(fast_per_kw=9_000)),
        peers=node.peers,
        channels=node.channels,
        payments=node.payments,
        announcing=announcing_of(node),
        graph=SimpleNamespace(is_ready=True, table=Table()),
        events=SimpleNamespace(hub=EventHub(), books=Books(node.store)),
    )


@asynccontextmanager
async def api_of(node: Node) -> AsyncIterator[Api]:
    """Serve the API of a node for a while; a wrong password does not wait."""
    wallet = Wallet()
    async with served(api_node(node, wallet), wallet) as api:
        yield api


@asynccontextmanager
async def served(seen: Any, wallet: Wallet) -> AsyncIterator[Api]:
    """Serve the API of whatever has what the calls want."""
    server = await ApiServer.start(seen, "127.0.0.1", 0, app=create_app(seen, pause_s=0))
    try:
        async with aiohttp.ClientSession() as http:
            yield Api(f"http://127.0.0.1:{server.port}", seen, http, wallet)
    finally:
        await server.stop()
