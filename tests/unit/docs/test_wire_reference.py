"""docs/messages.md is what the declarations say."""

from pathlib import Path

from shared.wire import REGISTRY
from shared.wire.reference import main, render

PAGE = Path(__file__).parents[3] / "docs" / "messages.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m shared.wire.reference docs/messages.md"
    )


def test_every_message_and_field_stands_on_the_page() -> None:
    page = render()
    for model in REGISTRY.values():
        section = page.partition(f"### `{model.NAME}`\n")[2].partition("\n#")[0]
        assert f"Type {model.TYPE}. " in section
        for segment in model.SEGMENTS:
            for slot in segment.slots:
                assert f"| `{slot.name}` |  | `" in section
        for number, slot in model.TLVS.items():
            assert f"| `{slot.name}` | {number} | `" in section


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    target = tmp_path / "messages.md"
    main([str(target)])
    assert target.read_text(encoding="utf-8") == render()
