"""A back starts, waits, or ends with a sentence that says what to correct."""

import asyncio
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from support.bitcoind import bitcoind, funded_folder, own_bitcoind  # noqa: F401 - fixtures
from support.hostile import HostilePeer
from support.squall import squall_node

from back.chain.regtest import Regtest
from back.demo.cluster import Cluster, until
from back.demo.process import Child, program, spawn
from shared.children import free_port
from shared.errors import CommandError

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

SETTINGS = {"SQUALL_BACK_MINIMUM_DEPTH": "1"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    bitcoind: Regtest,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Cluster]:
    """A node that runs; its folders are those that others try to use."""
    folder = tmp_path_factory.mktemp("starts")
    async with squall_node(bitcoind, folder, settings=SETTINGS, fund_btc=1) as node:
        yield node


@asynccontextmanager
async def another_back(node: Cluster, folder: Path, **changes: str) -> AsyncIterator[Child]:
    """Start a back beside the node's, with its own folder and ports and some settings changed."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **node.back_environment(),
        "SQUALL_BACK_DATA_DIR": str(folder),
        "SQUALL_BACK_API_LISTEN": f"127.0.0.1:{free_port()}",
        "SQUALL_BACK_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        **changes,
    }
    child = await spawn("another", [program("squall-back")], environment, folder / "back.log")
    try:
        yield child
    finally:
        await child.stop()


async def refuses(node: Cluster, folder: Path, why: str, **changes: str) -> None:
    """Start a back; it must end by itself, in time, with exit code 1 and a sentence."""
    async with another_back(node, folder, **changes) as child:
        assert await child.wait(20) == 1, child.tail()
        *_, last = child.tail().splitlines()
        assert last.startswith("squall-back: "), child.tail()
        assert why in last


def copy_database(node: Cluster, to: Path) -> None:
    """Copy a database in use, as a backup would."""
    source = sqlite3.connect(f"file:{node.root}/data/squall.db?mode=ro", uri=True)
    target = sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()


def copy_seed(node: Cluster, to: Path, mode: int = 0o600) -> None:
    """Copy the seed."""
    shutil.copy(node.root / "data" / "seed", to / "seed")
    (to / "seed").chmod(mode)


# --- refusals


async def test_mainnet_is_refused(node: Cluster, tmp_path: Path) -> None:
    await refuses(
        node, tmp_path, "this version does not run on mainnet", SQUALL_BACK_CHAIN="mainnet"
    )
    assert not (tmp_path / "seed").exists()


async def test_the_database_of_another_node_is_refused(node: Cluster, tmp_path: Path) -> None:
    copied = tmp_path / "copied.db"
    copy_database(node, copied)
    url = f"sqlite:///{copied}"
    await refuses(node, tmp_path, node.node_id, SQUALL_BACK_DATABASE_URL=url)
    assert node.back is not None
    assert node.back.is_running


async def test_the_database_of_another_network_is_refused(node: Cluster, tmp_path: Path) -> None:
    copy_database(node, tmp_path / "squall.db")
    copy_seed(node, tmp_path)
    await refuses(node, tmp_path, "this database is of regtest", SQUALL_BACK_CHAIN="signet")


@pytest.mark.parametrize("role", ["front", "tap", "admin"])
async def test_a_certificate_of_another_role_is_refused(
    node: Cluster, tmp_path: Path, role: str
) -> None:
    certs = node.certificates
    await refuses(
        node,
        tmp_path,
        f"is for the role {role}, this process is a back",
        SQUALL_BACK_TLS_CERT=str(certs / f"{role}.pem"),
        SQUALL_BACK_TLS_KEY=str(certs / f"{role}.key"),
    )


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
async def test_a_seed_that_others_may_read_is_refused(
    node: Cluster, tmp_path: Path, mode: int
) -> None:
    copy_seed(node, tmp_path, mode)
    await refuses(node, tmp_path, "others may read", SQUALL_BACK_NAME="x")


@pytest.mark.parametrize(
    ("words", "why"),
    [("", "seed"), ("no seed at all", "mnemonic"), ("zz" * 32, "seed"), ("ab" * 7, "seed")],
)
async def test_a_seed_file_without_a_seed_is_refused(
    node: Cluster, tmp_path: Path, words: str, why: str
) -> None:
    seed = tmp_path / "seed"
    seed.write_text(words)
    seed.chmod(0o600)
    await refuses(node, tmp_path, why)
    assert seed.read_text() == words


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"SQUALL_BACK_API_PASSWORD": "short"}, "8 characters"),
        ({"SQUALL_BACK_API_PASSWORD": ""}, "SQUALL_BACK_API_PASSWORD"),
        ({"SQUALL_BACK_API_LISTEN": "everywhere"}, "host:port"),
        ({"SQUALL_BACK_MINIMUM_DEPTH": "0"}, "SQUALL_BACK_MINIMUM_DEPTH"),
        ({"SQUALL_BACK_CHAIN": "moonnet"}, "SQUALL_BACK_CHAIN"),
        ({"SQUALL_BACK_COLOUR": "#ffffff"}, "SQUALL_BACK_COLOUR"),
        ({"SQUALL_BACK_NATS_URLS": "nats://127.0.0.1:4222"}, "tls://"),
        ({"SQUALL_BACK_TLS_CA": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"SQUALL_BACK_DATABASE_URL": "mysql://x"}, "mysql"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
async def test_wrong_settings_are_refused_by_name(
    node: Cluster, tmp_path: Path, changes: dict[str, str], why: str
) -> None:
    await refuses(node, tmp_path, why, **changes)


async def test_a_bitcoind_of_another_network_is_refused(node: Cluster, tmp_path: Path) -> None:
    await refuses(node, tmp_path, "regtest", SQUALL_BACK_CHAIN="testnet")


async def test_a_wrong_password_of_bitcoind_is_refused_in_words(
    node: Cluster, tmp_path: Path
) -> None:
    await refuses(node, tmp_path, "bitcoind", SQUALL_BACK_BITCOIND_PASSWORD="not this one")


async def test_an_address_in_use_is_refused(node: Cluster, tmp_path: Path) -> None:
    listen = f"127.0.0.1:{node.api_port}"
    why = f"cannot listen on {listen}"
    await refuses(node, tmp_path, why, SQUALL_BACK_API_LISTEN=listen)


# --- waiting


async def test_a_back_waits_for_its_broker_and_ends_politely_while_it_waits(
    node: Cluster, tmp_path: Path
) -> None:
    nowhere = f"tls://127.0.0.1:{free_port()}"
    async with another_back(node, tmp_path, SQUALL_BACK_NATS_URLS=nowhere) as child:

        async def waits() -> bool:
            return "fabric_unreachable" in child.tail(50)

        await until("the back to try", waits, 15)
        assert child.is_running
        child.signal(signal.SIGTERM)
        assert await child.wait(10) == 0


async def test_a_second_back_of_the_same_database_waits_as_a_standby(node: Cluster) -> None:
    data = node.root / "data"
    async with another_back(node, node.root / "standby", SQUALL_BACK_DATA_DIR=str(data)) as child:

        async def waits() -> bool:
            return "back_starting" in child.tail(50)

        await until("the standby", waits, 15)
        await asyncio.sleep(1)
        assert child.is_running
        assert "back_started" not in child.tail(50)
        assert (await node.call("getinfo"))["nodeId"] == node.node_id
        child.signal(signal.SIGTERM)
        assert await child.wait(10) == 0


# --- the API's callers


async def test_the_api_wants_its_password_and_says_what_is_wrong_with_parameters(
    node: Cluster,
) -> None:
    url = f"http://127.0.0.1:{node.api_port}"
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/getinfo") as answer:
            assert answer.status == 401
        wrong = {"Authorization": aiohttp.encode_basic_auth("", "wrong password")}
        async with http.post(f"{url}/getinfo", headers=wrong) as answer:
            assert answer.status == 401
            assert "wrong" in (await answer.json())["error"]
    for call, form, why in (
        ("open", {}, "nodeId"),
        ("open", {"nodeId": "02" * 33, "fundingSatoshis": "many"}, "fundingSatoshis"),
        ("open", {"nodeId": "zz", "fundingSatoshis": 1}, "nodeId"),
        ("open", {"nodeId": node.node_id, "fundingSatoshis": -1}, "fundingSatoshis"),
        ("payinvoice", {"invoice": "lnbcrt1nonsense"}, "invoice"),
        ("createinvoice", {"amountMsat": -5, "description": "x"}, "amountMsat"),
        ("createinvoice", {"amountMsat": 5, "description": "x" * 5_000}, "description"),
        ("connect", {"uri": "nobody@nowhere"}, "uri"),
        ("close", {"channelId": "abc"}, "channelId"),
        ("sendonchain", {"address": "1x", "amountSatoshis": 1, "confirmationTarget": 1}, ""),
        ("getinfo", {"surprise": 1}, "surprise"),
    ):
        with pytest.raises(CommandError, match=r": 4\d\d ") as refused:
            await node.call(call, **form)
        assert why in str(refused.value), (call, form)
    with pytest.raises(CommandError, match=": 404 "):
        await node.call("nosuchcall")


# --- bitcoind away


@pytest.fixture
def alone(own_bitcoind: Regtest) -> Regtest:  # noqa: F811
    return own_bitcoind


@pytest.mark.asyncio(loop_scope="function")
async def test_with_bitcoind_away_channels_are_served_and_nothing_is_opened(
    alone: Regtest, tmp_path: Path
) -> None:
    async with squall_node(alone, tmp_path, settings=SETTINGS, fund_btc=1) as node:
        peer = HostilePeer(node, alone, "honest")
        await peer.connect()
        await peer.open_channel()
        height = await alone.height()
        assert node.back is not None
        await node.back.stop()
        await alone.stop()
        peer.known_height = height
        # It starts, and the channel is there; but nobody knows how high the chain is by now, so
        # what comes in is sent back: its preimage might be given away too late.
        await node.start_back()
        await peer.reestablish()
        refused = await peer.offer(10_000)
        await peer.say(*peer.do(refused))
        await peer.quiet()
        assert refused.origin in peer.core.failed_origins
        await peer.earn(20_000)
        other = HostilePeer(node, alone, "other")
        other.known_height = height
        await other.connect()
        await other.say(await other.propose())
        assert b"does not follow the chain" in (await other.complaint()).data
        with pytest.raises(CommandError, match="does not follow the chain"):
            await other.ask_to_open()
        with pytest.raises(CommandError, match=r"bitcoind|chain"):
            await node.call("onchainbalance")
        # It comes, and with it all that was missing.
        await alone.start()
        await alone.create_wallet("miner")
        await alone.mine(1)
        peer.known_height = other.known_height = 0

        async def follows() -> bool:
            return bool((await node.call("getinfo"))["blockHeight"] == height + 1)

        await until("the chain again", follows, 30)
        await peer.becomes("NORMAL")
        await other.accept_channel(pushMsat=300_000_000)
        await other.works()
        await peer.works()
        for each in (peer, other):
            await each.close()
