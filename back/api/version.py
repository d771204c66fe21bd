"""Which version of the package this is."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["squall_version"]


@cache
def squall_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("squall")
    except PackageNotFoundError:
        return "unknown"
