"""The node key's part of a handshake, computed here: peers get in also while no back is up."""

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import coincurve

from front.transport.connection import KeyRequest
from shared.crypto.noise import (
    KeyAnswer,
    ResponderRequest,
    answer_initiator,
    answer_responder,
)
from shared.errors import CommandError

if TYPE_CHECKING:
    from front.settings import FrontSettings

__all__ = ["LocalKey", "load"]


class LocalKey:
    """Holds the node's private key in memory.

    Args:
        private: 32 bytes.
    """

    def __init__(self, private: bytes) -> None:
        self._private = private
        self.node_id = coincurve.PrivateKey(private).public_key.format()
        """33 bytes."""

    def __repr__(self) -> str:
        return f"LocalKey(node_id={self.node_id.hex()})"

    def for_dial(self, dial_id: bytes) -> "LocalKey":
        """Return itself: whatever is dialled, the key is here."""
        return self

    async def answer(self, request: KeyRequest) -> KeyAnswer:
        """Compute; see `KeyProvider.answer`."""
        if isinstance(request, ResponderRequest):
            return answer_responder(self._private, request)
        return answer_initiator(self._private, request)


def load(settings: "FrontSettings") -> bytes:
    """Return the private key that the settings name.

    Raises:
        CommandError: it is not there, others may read it, or it is no key. Never shows it.
    """
    match settings.key_provider:
        case "env" if settings.node_key is not None:
            return _parse(settings.node_key.get_secret_value(), "SQUALL_FRONT_NODE_KEY")
        case "file" if settings.node_key_file is not None:
            return _parse(_from_file(settings.node_key_file), str(settings.node_key_file))
        case "aws-sm":
            return _parse(_from_aws(settings.aws_secret_name), settings.aws_secret_name)
        case _:
            raise CommandError(f"key_provider {settings.key_provider} has no local key")


def _parse(text: str, source: str) -> bytes:
    try:
        private = bytes.fromhex(text.strip())
        coincurve.PrivateKey(private)
    except ValueError:
        raise CommandError(f"{source} is no private key: 64 hex digits are expected") from None
    if len(private) != 32:
        raise CommandError(f"{source} is no private key: 64 hex digits are expected")
    return private


def _from_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise CommandError(f"{path} may be read by others: chmod 600 it")
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {path}: {type(error).__name__}") from None


def _from_aws(name: str) -> str:
    """Ask AWS Secrets Manager; region and credentials come from the usual AWS environment."""
    try:
        import boto3  # noqa: PLC0415 - an extra that only this provider needs
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    except ImportError:
        raise CommandError("key_provider aws-sm needs the extra: pip install squall[aws]") from None
    try:
        answer = boto3.client("secretsmanager").get_secret_value(SecretId=name)
    except (BotoCoreError, ClientError) as error:
        raise CommandError(f"cannot get the secret {name} from AWS: {error}") from error
    text = str(answer.get("SecretString") or answer.get("SecretBinary", b"").hex())
    if not text.lstrip().startswith("{"):
        return text
    try:
        # The console stores key-value pairs: the one value, or that of the secret's own name.
        pairs = dict(json.loads(text))
    except ValueError:
        raise CommandError(f"the secret {name} is neither hex nor JSON") from None
    return str(pairs.get(name) or next(iter(pairs.values()), ""))
