"""The chains Squall speaks for, and what points into one.

Hashes and txids are in internal byte order, as in BOLT messages; RPC shows them reversed.
"""

from dataclasses import dataclass

__all__ = ["CHAINS", "MAINNET", "REGTEST", "SIGNET", "TESTNET", "Chain", "Outpoint"]


@dataclass(frozen=True, slots=True)
class Chain:
    """One Bitcoin network.

    Attributes:
        name: as bitcoind names it on its command line, except ``mainnet``.
        rpc_name: the ``chain`` field of bitcoind's getblockchaininfo.
        chain_hash: genesis block hash, 32 bytes, internal order (BOLT 0 § chain_hash).
        hrp: human-readable part of segwit addresses.
        invoice_prefix: BOLT 11 currency prefix.
        coin_type: BIP 44 coin type used in derivation paths.
    """

    name: str
    rpc_name: str
    chain_hash: bytes
    hrp: str
    invoice_prefix: str
    coin_type: int


def _hash(rpc_hex: str) -> bytes:
    return bytes.fromhex(rpc_hex)[::-1]


MAINNET = Chain(
    "mainnet",
    "main",
    _hash("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
    "bc",
    "bc",
    0,
)
TESTNET = Chain(
    "testnet",
    "test",
    _hash("000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943"),
    "tb",
    "tb",
    1,
)
SIGNET = Chain(
    "signet",
    "signet",
    _hash("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6"),
    "tb",
    "tbs",
    1,
)
REGTEST = Chain(
    "regtest",
    "regtest",
    _hash("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"),
    "bcrt",
    "bcrt",
    1,
)

CHAINS: dict[str, Chain] = {c.name: c for c in (MAINNET, TESTNET, SIGNET, REGTEST)}


@dataclass(frozen=True, slots=True, order=True)
class Outpoint:
    """An output of a transaction.

    Attributes:
        txid: 32 bytes, internal order.
        index: output number.
    """

    txid: bytes
    index: int

    @property
    def rpc_txid(self) -> str:
        """The txid in hex, in the order RPC shows it."""
        return self.txid[::-1].hex()

    def __str__(self) -> str:
        return f"{self.rpc_txid}:{self.index}"
