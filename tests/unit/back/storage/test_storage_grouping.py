"""Grouping of writes: few calls, and nothing that could meet in a row overtakes."""

import pytest
from hypothesis import given, settings, strategies as st
from sqlalchemy import column

from back.storage.driver import PostgresDriver, SqliteDriver
from back.storage.statements import Statement, Write, delete, grouped, insert, update, upsert
from back.storage.tables import blocks, htlcs, peers

STATEMENTS = [
    insert(blocks, "height"),
    delete(blocks, "height"),
    insert(peers, "node_id"),
    delete(peers, "node_id"),
]
writes = st.builds(
    lambda statement, key: Write(statement, {statement.order: key}),
    st.sampled_from(STATEMENTS),
    st.integers(0, 3),
)
items = st.lists(st.lists(writes, max_size=5), max_size=8)


@settings(max_examples=200)
@given(items)
def test_grouping_loses_nothing_and_keeps_every_order_that_matters(
    items: list[list[Write]],
) -> None:
    numbered = [
        [Write(w.statement, {**w.values, "item": i, "place": n}) for n, w in enumerate(item)]
        for i, item in enumerate(items)
    ]
    run = [(group.statement, row) for group in grouped(numbered) for row in group.rows]
    flat = [(w.statement, w.values) for item in numbered for w in item]
    place = {(row["item"], row["place"]): n for n, (_, row) in enumerate(run)}
    assert len(run) == len(flat)
    for later, (statement, row) in enumerate(flat):
        for other, before in flat[:later]:
            same_item = row["item"] == before["item"]
            same_rows = (
                statement.table is other.table and row[statement.order] == before[other.order]
            )
            if same_item or same_rows or statement is other:
                mine, theirs = (row["item"], row["place"]), (before["item"], before["place"])
                assert place[theirs] < place[mine]


def test_the_same_steps_of_many_channels_become_one_call_each() -> None:
    put, add = upsert(blocks, "height"), insert(peers, "node_id")
    items = [[put.write(height=n), add.write(node_id=n)] for n in range(100)]
    assert [(g.statement, len(g.rows)) for g in grouped(items)] == [(put, 100), (add, 100)]


@pytest.mark.parametrize("driver", [SqliteDriver, PostgresDriver])
def test_a_constant_outside_a_statements_text_is_refused(
    driver: type[SqliteDriver | PostgresDriver],
) -> None:
    wrong = Statement(
        htlcs, "id", None, lambda _: htlcs.delete().where(htlcs.c.id == 7, column("x") == 1)
    )
    with pytest.raises(TypeError, match="constant"):
        wrong.sql(driver.dialect)


def test_statements_name_their_parameters_like_columns() -> None:
    changed = update(htlcs, "key_index", [htlcs.c.state], only="remote_last IS NULL")
    assert changed.sql(SqliteDriver.dialect) == (
        "UPDATE htlcs SET state=:state WHERE htlcs.key_index = :key_index AND "
        "htlcs.offered = :offered AND htlcs.id = :id AND remote_last IS NULL"
    )
