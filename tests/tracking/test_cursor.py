from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tracking.cursor import (
    CHUNK,
    CURSOR,
    MAX_METRICS,
    MAX_TEXTS,
    Batch,
    batches,
    read_cursors,
)
from pipeline.tracking.journal import JOURNAL, Journal

points = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 9), min_size=1)
texts = st.dictionaries(st.text("xyz", min_size=1, max_size=2), st.text(max_size=3), min_size=1)
INPUT: dict[str, Any] = {"source": "s", "digest": "d", "context": "training", "profile": {}}
events = st.one_of(
    st.builds(lambda m: {"s": 0, "m": m}, points),
    st.builds(lambda p: {"params": p}, texts),
    st.builds(lambda p: {"tags": p}, texts),
    st.builds(lambda n: {"input": {**INPUT, "name": str(n)}}, st.integers(0, 9)),
)


def journal_of(folder: Path, written: list[dict[str, Any]]) -> Path:
    journal = Journal(folder)
    for event in written:
        journal.append(dict(event))
    journal.close()
    return folder / JOURNAL


def said(read: list[Batch]) -> tuple[list[Any], dict[str, Any], dict[str, Any], list[Any]]:
    params: dict[str, Any] = {}
    tags: dict[str, Any] = {}
    for batch in read:
        params.update(batch.params)
        tags.update(batch.tags)
    metrics = [(key, value) for batch in read for key, value, _, _ in batch.metrics]
    return metrics, params, tags, [batch.event["input"] for batch in read if batch.event]


@settings(max_examples=50, deadline=None)
@given(written=st.lists(events))
def test_batches_say_what_the_lines_say(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]
) -> None:
    read = list(batches(journal_of(tmp_path_factory.mktemp("journal"), written), 0))
    metrics, params, tags, inputs = said(read)
    assert metrics == [point for event in written for point in event.get("m", {}).items()]
    assert inputs == [event["input"] for event in written if "input" in event]
    for event in written:
        assert event.get("params", {}).keys() <= params.keys()
    assert [e for e in written if "tags" in e] == [] or tags != {}


@settings(max_examples=25, deadline=None)
@given(written=st.lists(events))
def test_reading_goes_on_where_any_batch_ended(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]
) -> None:
    path = journal_of(tmp_path_factory.mktemp("journal"), written)
    read = list(batches(path, 0))
    for index, batch in enumerate(read):
        assert said(list(batches(path, batch.end))) == said(read[index + 1 :])


def test_the_latest_tag_wins(tmp_path: Path) -> None:
    path = journal_of(tmp_path, [{"tags": {"a": "1", "b": "1"}}, {"tags": {"a": "2", "b": None}}])
    assert [batch.tags for batch in batches(path, 0)] == [{"a": "2", "b": None}]


def test_a_request_stays_within_mlflows_limits(tmp_path: Path) -> None:
    long = "x" * 6000
    written: list[dict[str, Any]] = [
        {"s": step, "m": {f"m{i}": 1.0 for i in range(7)}} for step in range(1000)
    ]
    written += [{"params": {f"p{i}": long}} for i in range(150)]
    written += [{"tags": {f"t{i}": "x"}} for i in range(150)]
    read = list(batches(journal_of(tmp_path, written), 0))
    assert sum(len(batch) for batch in read) == 7000 + 150 + 150
    for batch in read:
        assert len(batch.metrics) <= MAX_METRICS
        assert len(batch.params) <= MAX_TEXTS
        assert len(batch.tags) <= MAX_TEXTS
        assert sum(map(len, batch.params.values())) <= CHUNK + len(long)


def test_a_line_being_written_waits(tmp_path: Path) -> None:
    path = journal_of(tmp_path, [{"s": 0, "m": {"a": 1.0}}])
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(b'{"t":1,"s":1,"m":{"a"')
    (batch,) = batches(path, 0)
    assert (len(batch), batch.end) == (1, size)


@pytest.mark.parametrize("metrics", range(3))
@pytest.mark.parametrize("params", range(3))
@pytest.mark.parametrize("tags", range(3))
def test_halves_hold_everything_once_and_get_smaller(metrics: int, params: int, tags: int) -> None:
    batch = Batch(
        [("m", 1.0, 0, step) for step in range(metrics)],
        {f"p{i}": "" for i in range(params)},
        {f"t{i}": "" for i in range(tags)},
    )
    first, second = batch.halves()
    assert len(first) + len(second) == len(batch)
    assert len(batch) < 2 or max(len(first), len(second)) < len(batch)
    assert {*first.metrics, *second.metrics} == {*batch.metrics}
    assert first.params | second.params == batch.params
    assert first.tags | second.tags == batch.tags


def test_a_cursor_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    entry = {"run_id": "r", "offset": 7, "linked": True, "introduced": True}
    entry |= {"missing": [], "refused": {}}
    (tmp_path / CURSOR).write_text(json.dumps({"mlflow.db": entry}))
    (tmp_path / JOURNAL).write_text("1234567")
    cursor = read_cursors(tmp_path)["mlflow.db"]
    assert (cursor.run_id, cursor.offset, cursor.linked) == ("r", 7, True)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"mlflow.db": 1}',
        '{"mlflow.db": {"offset": 1',
        '{"mlflow.db": {"offset": "far"}}',
        '{"mlflow.db": {"run_id": "r", "offset": 8}}',  # ahead of the journal
        '{"mlflow.db": {"run_id": "r", "offset": -1}}',
        '{"mlflow.db": {"offset": 7}}',  # of no run
        '{"mlflow.db": {"run_id": "r", "offset": ' + "9" * 5000 + "}}",
        '{"mlflow.db": {"run_id": "r", "missing": [{"t": 1, "why": "?"}]}}',
    ],
)
def test_an_unreadable_cursor_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / JOURNAL).write_text("1234567")
    (tmp_path / CURSOR).write_text(content)
    assert read_cursors(tmp_path) == {}
