"""Settings of a process: environment variables or one TOML file, read once at start.

A class of settings has a prefix, ``SQUALL_FRONT_`` for instance, and one documented field per
variable. A variable with the prefix that is no field is refused: a misspelt limit must not silently
be no limit. Environment goes before file.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import BeforeValidator, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import CommandError
from shared.fabric.tls import Credentials

__all__ = ["FabricSettings", "Listed", "Settings", "TextList", "host_port", "reference"]

_HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]\s]+)):(\d{1,5})", re.ASCII)


def host_port(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``; port 0 means any free one.

    Raises:
        ValueError: another form.
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match[3]) > 0xFFFF:
        raise ValueError(f"{text!r} is not host:port")
    return match[1] or match[2], int(match[3])


def _listed(value: object) -> object:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


Listed = BeforeValidator(_listed)
"""For a tuple's ``Annotated``, with ``NoDecode``: ``a, b`` (or a JSON array) in a variable."""
TextList = Annotated[tuple[str, ...], NoDecode, Listed]


class Settings(BaseSettings):
    """Base of all settings; a subclass gives ``env_prefix`` in its ``model_config``."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        env_ignore_empty=True,
    )

    @classmethod
    def load(
        cls, config: Path | None = None, environ: Mapping[str, str] | None = None, **given: object
    ) -> Self:
        """Read the environment and, if there is one, the file.

        Args:
            config: a TOML file with one key per field; else the variable ``<prefix>CONFIG`` names
                it.
            environ: for the names of variables, ``os.environ`` by default.
            given: values that go before both, from a command line.

        Raises:
            CommandError: names every variable that is unknown, missing or wrong, never its value.
        """
        environ = os.environ if environ is None else environ
        prefix = str(cls.model_config["env_prefix"]).upper()
        present = {name.upper(): value for name, value in environ.items()}
        unknown = [_unknown(cls, name) for name in present if name.startswith(prefix)]
        if problems := sorted(filter(None, unknown)):
            raise CommandError("; ".join(problems))
        if config is None and (named := present.get(f"{prefix}CONFIG")):
            config = Path(named)
        from_file = {} if config is None else _read(config)
        values = {k: v for k, v in from_file.items() if not present.get(f"{prefix}{k}".upper())}
        try:
            return cls(**(values | given))
        except ValidationError as error:
            raise CommandError(_explain(error, prefix, config)) from None


class FabricSettings(Settings):
    """What every process needs to reach the others."""

    nats_urls: TextList = ("tls://127.0.0.1:4222",)
    """NATS servers of the cluster, ``tls://host:port``, several with commas."""
    tls_ca: Path | None = None
    """Certificate of the cluster's CA (`ca.pem`); not used with a shared certificate."""
    tls_cert: Path
    """Our certificate, e.g. `front.pem`; without TLS no process starts."""
    tls_key: Path
    """Its private key, e.g. `front.key`."""
    shared_certificate: bool = False
    """All members use one self-signed certificate (`squall certs --shared`): simpler, but there are
    no roles."""

    @model_validator(mode="after")
    def _has_trust(self) -> Self:
        if self.tls_ca is None and not self.shared_certificate:
            raise ValueError("tls_ca is needed, except with shared_certificate")
        return self

    @property
    def credentials(self) -> Credentials:
        """The files for `FabricClient`."""
        ca = self.tls_cert if self.shared_certificate or self.tls_ca is None else self.tls_ca
        return Credentials(ca, self.tls_cert, self.tls_key, self.shared_certificate)


def _unknown(cls: type[Settings], name: str) -> str | None:
    """Say what is wrong with the name of a variable, if anything is."""
    prefix = str(cls.model_config["env_prefix"]).upper()
    fields = [f"{prefix}{field}".upper() for field in cls.model_fields]
    if name in fields or name == f"{prefix}CONFIG":
        return None
    near = difflib.get_close_matches(name, fields, 1)
    return f"unknown variable {name}" + (f" (meant {near[0]}?)" if near else "")


def _read(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"cannot read {config}: {error}") from error


def _explain(error: ValidationError, prefix: str, config: Path | None) -> str:
    """One clause per problem, with the variable's name; the values stay out of it."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = f"{prefix}{problem['loc'][0]}".upper() if problem["loc"] else "settings"
        inner = "".join(f"[{part}]" for part in problem["loc"][1:])
        where = f" (in {config})" if config and problem["type"] == "extra_forbidden" else ""
        problems.append(f"{name}{inner}: {problem['msg']}{where}")
    return "; ".join(problems)


# --- docs/configuration.md ------------------------------------------------------------------------


def reference(classes: Iterable[type[Settings]]) -> str:
    """Return docs/configuration.md: one table per class, from the fields and their docstrings.

    Raises:
        ValueError: a field has no docstring.
    """
    lines = [
        "# Configuration",
        "",
        "Generated from the settings classes; do not edit.",
        "",
        "Each process reads environment variables, or a TOML file (`--config FILE`, or the",
        "variable `<PREFIX>CONFIG`) with the names in lower case and without the prefix.",
        "A variable goes before the file. Unknown names are refused. Lists have commas.",
    ]
    for cls in classes:
        prefix = str(cls.model_config["env_prefix"])
        title = (cls.__doc__ or cls.__name__).partition("\n")[0]
        lines += ["", f"## `{prefix}*`", "", title, ""]
        lines += ["| variable | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(prefix, name, field) for name, field in cls.model_fields.items()]
    return "\n".join([*lines, ""])


def _row(prefix: str, name: str, field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"{prefix}{name.upper()} has no docstring")
    meaning = " ".join(field.description.split()).replace("``", "`")
    cells = (f"`{prefix}{name.upper()}`", _type(field.annotation), _default(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_TYPE_NAMES = {
    "str": "text",
    "bool": "true or false",
    "int": "integer",
    "float": "number",
    "bytes": "hex",
    "SecretStr": "secret",
    "IPv4Network": "network",
    "IPv6Network": "network",
}


def _type(annotation: object) -> str:
    """Name a type for people."""
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    arguments = [a for a in get_args(annotation) if a is not type(None) and a is not Ellipsis]
    if arguments and all(isinstance(a, str) for a in arguments):
        return ", ".join(f"`{a}`" for a in arguments)
    if get_origin(annotation) is tuple:
        return f"list of {_type(arguments[0])}"
    if arguments:
        return " or ".join(dict.fromkeys(map(_type, arguments)))
    name = getattr(annotation, "__name__", str(annotation))
    return _TYPE_NAMES.get(name, name.lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory is not None or field.default is PydanticUndefined:
        return "computed"
    value = field.default
    if value is None or value == () or str(value) == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{', '.join(map(str, value))}`"
    return f"`{value}`"
