"""The on-chain wallet: bitcoind's."""

from back.api.calls import call
from back.api.forms import (
    ADDRESS,
    AMOUNT_SAT,
    COUNT,
    FEERATE,
    BadRequest,
    Form,
    optional,
    required,
)
from back.api.interface import ApiNode
from shared.units import vbyte_to_kw


@call("onchainbalance", "onchain")
async def onchainbalance(node: ApiNode, form: Form) -> object:
    """Tell what is in the wallet, in satoshis."""
    del form
    balance = await node.chain.wallet.balance()
    return {"confirmed": balance.confirmed_sat, "unconfirmed": balance.unconfirmed_sat}


@call("getnewaddress", "onchain")
async def getnewaddress(node: ApiNode, form: Form) -> object:
    """Make an address of the wallet."""
    del form
    return await node.chain.wallet.new_address()


@call(
    "sendonchain",
    "onchain",
    required("address", ADDRESS),
    required("amountSatoshis", AMOUNT_SAT),
    optional("confirmationTarget", COUNT, "blocks; or feeRatePerByte"),
    optional("feeRatePerByte", FEERATE, "sat per vbyte; goes before confirmationTarget"),
)
async def sendonchain(node: ApiNode, form: Form) -> object:
    """Pay an address; answers with the txid."""
    txid = await node.chain.wallet.send(
        form["address"], form["amountSatoshis"], _feerate_per_kw(node, form)
    )
    return txid[::-1].hex()


def _feerate_per_kw(node: ApiNode, form: Form) -> int:
    if "feeRatePerByte" in form:
        return vbyte_to_kw(form["feeRatePerByte"])
    if "confirmationTarget" not in form:
        raise BadRequest("Give 'confirmationTarget' (blocks) or 'feeRatePerByte' (sat per vbyte)")
    feerates = node.chain.feerates
    target = form["confirmationTarget"]
    if target <= 2:
        return feerates.fast_per_kw
    return feerates.funding_per_kw if target <= 12 else feerates.slow_per_kw
