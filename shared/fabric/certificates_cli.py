"""`squall certs DIR`, `squall certs add-front NAME`, `squall certs renew`: a typer app to mount."""

from pathlib import Path
from typing import Annotated

import typer

from shared.errors import CommandError
from shared.fabric import certificates

__all__ = ["app"]


class _FolderOrCommand(typer.core.TyperGroup):
    """Lets ``squall certs DIR`` stand beside ``squall certs renew``: no command means a folder."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Insert the command ``create`` before a folder."""
        if args and not any(a in self.commands or a in {"--help", "-h"} for a in args):
            args = ["create", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FolderOrCommand,
    no_args_is_help=True,
    help="Make the certificates of a cluster: squall certs DIR.",
)

Folder = Annotated[Path, typer.Option("--dir", help="Folder of the cluster's certificates.")]


@app.command(hidden=True)
def create(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make them in.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Another name or address of the NATS server; may be repeated."),
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="One self-signed certificate for all; no roles.")
    ] = False,
) -> None:
    """Make a CA and one certificate per role; refuses a folder that has them already."""
    with _reported():
        if shared:
            certificates.create_shared(folder)
        else:
            certificates.create(folder, host or [])
    typer.echo(f"certificates written to {folder}")


@app.command()
def add_front(
    name: Annotated[str, typer.Argument(help="The front's name (SQUALL_FRONT_NAME).")],
    folder: Folder = Path("certs"),
) -> None:
    """Give one front a certificate and a user of its own."""
    with _reported():
        certificates.add_front(folder, name)
    typer.echo(f"{folder / f'front-{name}.pem'} written; reload the NATS servers")


@app.command()
def renew(folder: Folder = Path("certs")) -> None:
    """Replace all certificates but the CA's."""
    with _reported():
        names = certificates.renew(folder)
    typer.echo(f"renewed: {', '.join(names)}; restart or reload the NATS servers")


class _reported:  # noqa: N801  # used like a function
    """Turn refusals into one line on stderr and exit code 1."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CommandError):
            typer.echo(f"squall certs: {error}", err=True)
            raise typer.Exit(1) from error
