"""docs/channel-states.md is what the channel's tables say."""

from support.channel_states import EDGES, PAGE, START, check, entries, render

from back.channel.model import Phase
from back.channel.rules import LEGAL


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: make docs"


def test_the_diagram_reaches_every_phase_from_the_start() -> None:
    check(entries())
    reached = {START}
    for _ in EDGES:
        reached |= {target for source, target, _ in EDGES if source in reached}
    assert reached - {START} == {phase.name for phase in Phase}


def test_every_rule_is_a_mark_in_the_table() -> None:
    assert render().count("●") == len(LEGAL)
