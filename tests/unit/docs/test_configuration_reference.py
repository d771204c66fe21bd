"""docs/configuration.md is what the settings say."""

from support.configuration import PAGE, render


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m tests.support.configuration"
    )
