from __future__ import annotations

import json
import math
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.tracking.journal import (
    JOURNAL,
    Journal,
    points_of,
    read_events,
    read_header,
    read_last,
    read_run,
)

HEADER = {
    "run": "k",
    "stage": "train",
    "experiment": "e",
    "name": "n",
    "parent": None,
    "state": "train-1",
}
floats = st.floats(allow_nan=True, allow_infinity=True)


def begun(folder: Path) -> Journal:
    journal = Journal(folder)
    journal.append({"create": dict(HEADER)})
    return journal


@settings(max_examples=50, deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, 2**40), st.dictionaries(st.text(), floats))))
def test_metrics_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[int, dict[str, float]]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for step, metrics in points:
        journal.append({"s": step, "m": metrics})
    read = [(event["s"], event["m"]) for event in read_events(folder / JOURNAL)]
    assert repr(read) == repr(points)  # repr, for NaN equals nothing


def test_every_line_is_json_that_others_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"s": 3, "m": {"a": math.nan, "b": -math.inf, "ü": 1.0}})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    event = json.loads((tmp_path / JOURNAL).read_text("utf-8"), parse_constant=refuse)
    assert event["m"] == {"a": "NaN", "b": "-Infinity", "ü": 1.0}


def test_whatever_has_a_float_is_a_metric_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    metrics = {"a": np.float32(0.5), "b": np.int64(3), "c": True, "d": 7, "e": np.float64("nan")}
    journal.append({"s": 0, "m": metrics})
    with pytest.raises(ValueError, match="high"):
        journal.append({"s": 1, "m": {"a": "high"}})
    (event,) = read_events(tmp_path / JOURNAL)
    read = event["m"]
    assert repr(read) == "{'a': 0.5, 'b': 3.0, 'c': 1.0, 'd': 7.0, 'e': nan}"


def test_a_torn_last_line_is_cut_wherever_it_is_torn(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append({"s": 0, "m": {"loss": 1.0}})
    whole = (tmp_path / JOURNAL).read_bytes()
    journal.append({"s": 1, "m": {"loss": 2.0}})
    longer = (tmp_path / JOURNAL).read_bytes()
    journal.close()
    for torn in range(len(whole), len(longer)):
        (tmp_path / JOURNAL).write_bytes(longer[:torn])
        assert points_of(tmp_path / JOURNAL) == {"loss": {0}}, "a reader passes the torn line over"
        Journal(tmp_path).close()
        assert (tmp_path / JOURNAL).read_bytes() == whole


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    begun(tmp_path).close()
    whole = (tmp_path / JOURNAL).read_bytes()
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b"x" * 200_000)
    Journal(tmp_path).close()
    assert (tmp_path / JOURNAL).read_bytes() == whole


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    def write(name: str) -> None:
        for step in range(300):
            journal.append({"s": step, "m": {name: step}})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert points_of(tmp_path / JOURNAL) == {name: set(range(300)) for name in "abcd"}


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_trace(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    whole = (tmp_path / JOURNAL).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(UserError, match=r"journal\.jsonl"):
            journal.append({"s": 0, "m": {"loss": 1.0}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / JOURNAL).read_bytes() == whole
    journal.append({"s": 0, "m": {"loss": 1.0}})
    assert points_of(tmp_path / JOURNAL) == {"loss": {0}}


def test_the_story_is_the_run_after_its_last_line(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append({"params": {"lr": "0.1"}})
    journal.append({"tags": {"a": "1", "b": "1"}})
    journal.append({"s": 2, "m": {"loss": 3.0}})
    journal.append({"s": 1, "m": {"loss": 9.0}})  # later, but an earlier step: not the last
    journal.append({"end": "KILLED"})
    journal.append({"resume": {}})
    journal.append({"tags": {"a": "2", "b": None}})
    journal.append({"t": 5, "end": "FINISHED"})
    run_state = read_run(tmp_path)
    assert run_state is not None
    assert (run_state.status, run_state.ended, run_state.params) == ("FINISHED", 5, {"lr": "0.1"})
    assert run_state.tags == {"a": "2"}
    assert (run_state.metrics["loss"].step, run_state.metrics["loss"].value) == (2, 3.0)


def test_a_run_that_goes_on_is_running(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.append({"end": "KILLED"})
    journal.append({"resume": {}})
    run_state = read_run(tmp_path)
    assert run_state is not None
    assert (run_state.status, run_state.ended) == ("RUNNING", None)


def test_first_and_last_lines(tmp_path: Path) -> None:
    assert read_header(tmp_path) is None
    assert read_run(tmp_path) is None
    journal = begun(tmp_path)
    journal.append({"tags": {"long": "x" * 100_000}})
    assert read_header(tmp_path) == HEADER
    last = read_last(tmp_path)
    assert last is not None
    assert len(last["tags"]["long"]) == 100_000


def test_a_garbled_line_is_passed_over(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b"\0\0\0\0\n[1]\n")
    journal.append({"s": 0, "m": {"loss": 1.0}})
    assert points_of(tmp_path / JOURNAL) == {"loss": {0}}
