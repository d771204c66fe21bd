"""Writes docs/configuration.md: ``python -m tests.support.configuration``."""

from pathlib import Path

from back.settings import BackSettings
from front.settings import FrontSettings
from shared.settings import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def render() -> str:
    """Return the page."""
    return reference([FrontSettings, BackSettings])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
