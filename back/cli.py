"""``squall``: the command line. Certificates, the demo, the tap, and every call of the API.

A call takes the API's own parameters: ``squall payinvoice --invoice lnbcrt…``.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from back.demo.play import play
from back.tap import Filter, tap as run_tap
from shared.errors import CommandError, LightningError
from shared.fabric.certificates import credentials
from shared.fabric.certificates_cli import app as certificates_app

__all__ = ["app", "main"]

CALLS = {
    "getinfo": "Who this node is.",
    "connect": "Connect to a peer: --uri nodeid@host:port, or --nodeId.",
    "disconnect": "Disconnect a peer: --nodeId.",
    "peers": "Known peers.",
    "open": "Open a channel: --nodeId --fundingSatoshis [--pushMsat --announceChannel …].",
    "close": "Close cooperatively: --channelId [--scriptPubKey --preferredFeerateSatByte …].",
    "forceclose": "Publish our commitment: --channelId.",
    "channels": "All channels: [--nodeId].",
    "channel": "One channel: --channelId.",
    "updaterelayfee": "Fees of forwarding: --nodeId or --channelId, --feeBaseMsat …, or --reset.",
    "nodes": "Nodes of the network: [--nodeIds].",
    "node": "A node of the network: --nodeId.",
    "allchannels": "Public channels of the network.",
    "allupdates": "Terms of those channels: [--nodeId].",
    "createinvoice": "Make an invoice: --description [--amountMsat --expireIn].",
    "parseinvoice": "Read an invoice: --invoice.",
    "getinvoice": "A stored invoice: --paymentHash.",
    "listinvoices": "Stored invoices: [--from --to].",
    "payinvoice": "Pay: --invoice [--amountMsat --blocking true].",
    "getsentinfo": "What became of a payment: --paymentHash or --id.",
    "getreceivedinfo": "What was received: --paymentHash or --invoice.",
    "createoffer": "Make an offer: [--description --amountMsat --blindedPathsFirstNodeId].",
    "disableoffer": "Answer an offer no more: --offer.",
    "listoffers": "Our offers: [--activeOnly false].",
    "parseoffer": "Read an offer: --offer.",
    "payoffer": "Pay an offer: --offer --amountMsat [--quantity --blocking true].",
    "onchainbalance": "The wallet's balance.",
    "getnewaddress": "An address of the wallet.",
    "sendonchain": "Send on chain: --address --amountSatoshis --confirmationTarget.",
}

app = typer.Typer(
    name="squall",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(certificates_app, name="certs")


@app.callback()
def _common(
    context: typer.Context,
    api: Annotated[
        str, typer.Option(envvar="SQUALL_API", help="Address of the API.")
    ] = "http://127.0.0.1:8080",
    password: Annotated[
        str, typer.Option(envvar="SQUALL_API_PASSWORD", help="Password of the API.")
    ] = "",
) -> None:
    context.obj = (api, password)


@app.command()
def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running, print how to use it.")
    ] = False,
) -> None:
    """The whole set-up and the main job, on this machine."""
    raise typer.Exit(asyncio.run(play(keep=keep)))


@app.command()
def tap(
    certs: Annotated[Path, typer.Option(help="Folder with the tap certificate.")],
    nats: Annotated[str, typer.Option(help="tls://host:port, several with commas.")] = (
        "tls://127.0.0.1:4222"
    ),
    peer: Annotated[str | None, typer.Option(help="Only this node id.")] = None,
    channel: Annotated[str | None, typer.Option(help="Only this channel_id.")] = None,
    message: Annotated[str | None, typer.Option(help="Only this BOLT message.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the decoded traffic between fronts and back."""
    user = "shared" if (certs / "shared.pem").exists() else "tap"
    wanted = Filter(peer, channel, message)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run_tap(nats.split(","), credentials(certs, user), wanted, as_json=as_json))


def _parameters(arguments: list[str]) -> dict[str, str]:
    """Read ``--name value`` and ``--name=value``."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, separator, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise CommandError(f"parameters are --name value, got {name!r}")
        if not separator:
            if not rest:
                raise CommandError(f"{name} needs a value")
            value = rest.pop(0)
        found[name[2:]] = value
    return found


async def _call(api: str, password: str, name: str, form: dict[str, str]) -> tuple[bool, str]:
    timeout = aiohttp.ClientTimeout(total=120)
    headers = {"Authorization": aiohttp.encode_basic_auth("", password)}
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.post(f"{api.rstrip('/')}/{name}", data=form) as response,
    ):
        return response.ok, await response.text()


def _add_call(name: str, text: str) -> None:
    @app.command(
        name,
        help=text,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        rich_help_panel="API calls",
    )
    def run(context: typer.Context) -> None:
        api, password = context.obj
        form = _parameters(context.args)
        try:
            ok, answer = asyncio.run(_call(api, password, name, form))
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            raise CommandError(f"the API at {api} does not answer: {why}") from error
        with contextlib.suppress(json.JSONDecodeError):
            answer = json.dumps(json.loads(answer), indent=2, ensure_ascii=False)
        typer.echo(answer, err=not ok)
        if not ok:
            raise typer.Exit(1)


for _name, _text in CALLS.items():
    _add_call(_name, _text)


def main() -> None:
    """Run the command line; errors on purpose are one line."""
    try:
        app()
    except LightningError as error:
        typer.echo(f"squall: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
