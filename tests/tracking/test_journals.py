from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline.tracking.journals import ListedRun, rows
from pipeline.tracking.run import start_run


def train(record: Path, name: str = "train") -> str:
    with start_run("train", experiment="e", name=name, record=record) as run:
        run.log_metrics({"val/loss": 6.5}, step=1)
        run.log_metrics({"val/loss": 6.4}, step=2)
    return run.key


def evaluate(parent: Path, record: Path) -> str:
    with start_run("evaluate", experiment="e", parent=parent, record=record) as run:
        run.log_metrics({"val/loss": 6.3})
    return run.key


def outline(listed: list[ListedRun]) -> list[tuple[str, int]]:
    return [(row.key, row.depth) for row in listed]


def test_children_stand_under_their_parent_newest_tree_first(offline: Path) -> None:
    train_record, evaluate_record = Path("reports/train_run.json"), Path("reports/eval_run.json")
    first = train(train_record)
    children = [evaluate(train_record, evaluate_record), evaluate(train_record, evaluate_record)]
    second = train(train_record)
    listed = rows(offline)
    assert outline(listed) == [(second, 0), (first, 0), (children[0], 1), (children[1], 1)]
    assert listed[1].metrics == {"val/loss": 6.4}
    assert listed[1].status == "FINISHED"


def test_a_child_whose_parent_is_not_here_stands_alone(offline: Path) -> None:
    (offline / "train_run.json").write_text('{"run": "elsewhere"}')
    child = evaluate(offline / "train_run.json", Path("reports/eval_run.json"))
    assert outline(rows(offline)) == [(child, 0)]


def test_which_runs_the_reports_come_from(offline: Path) -> None:
    record = Path("reports/train_run.json")
    first = train(record)
    written = record.read_text()
    assert [row.reports for row in rows(offline)] == ["ran"]
    second = train(record)
    assert {row.key: row.reports for row in rows(offline)} == {first: "", second: "ran"}
    record.write_text(written)  # as DVC's run cache does for params that were run before
    assert {row.key: row.reports for row in rows(offline)} == {first: "restored", second: ""}


def test_a_stages_journal_names_its_run_too(offline: Path) -> None:
    with start_run("evaluate", experiment="e", journal=Path("journals/evaluate")):
        pass
    assert [row.reports for row in rows(offline)] == ["ran"]


def test_a_record_that_was_put_back_later_is_restored(offline: Path) -> None:
    record = Path("reports/train_run.json")
    train(record)
    later = time.time() + 3600
    os.utime(record, (later, later))
    assert [row.reports for row in rows(offline)] == ["restored"]


def test_runs_of_other_workspaces_do_not_make_this_ones_old(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = train(Path("reports/train_run.json"))
    workspace = offline / ".dvc" / "tmp" / "exps" / "tmp1"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    there = train(workspace / "reports" / "train_run.json")
    assert {row.key: row.reports for row in rows(offline)} == {here: "ran", there: ""}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": null}'])
def test_a_file_that_is_no_record_is_passed_over(offline: Path, content: str) -> None:
    train(Path("reports/train_run.json"))
    (offline / "reports" / "other_run.json").write_text(content)
    assert [row.reports for row in rows(offline)] == ["ran"]
