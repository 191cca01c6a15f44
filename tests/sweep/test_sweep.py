"""A sweep in a real store, read as `lossbook sweep` reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.tracking.mlflow.queries import Reader

pytestmark = pytest.mark.usefixtures("working_inside")


def read(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["sweep", "--json", "--no-log", *arguments])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def outline(found: dict[str, Any]) -> list[tuple[Any, list[str]]]:
    """For each setting its learning rate and its experiments."""
    return [
        (s["values"].get("train.learning_rate"), [run["experiment"] for run in s["runs"]])
        for s in found["settings"]
    ]


@pytest.fixture(scope="module")
def found(sweep: dict[str, str], inside: Callable[[], Any]) -> dict[str, Any]:
    with inside():
        return read()


def test_settings_come_best_first_with_mean_and_spread_over_seeds(found: dict[str, Any]) -> None:
    assert outline(found) == [(1e-3, ["second", "restored"]), (4e-4, ["mended", "slow"])]
    best, other = found["settings"]
    assert best["mean"] == pytest.approx(6.1)
    assert best["spread"] == pytest.approx(math.sqrt(0.02))
    assert (other["mean"], found["swept"]) == (pytest.approx(7.1), ["train.learning_rate"])


def test_what_dvc_restored_is_there_and_the_older_sweep_is_not(
    found: dict[str, Any], sweep: dict[str, str]
) -> None:
    runs = {run["experiment"]: run for s in found["settings"] for run in s["runs"]}
    assert runs["restored"]["run"] == sweep["restored"]
    assert [name for name, run in runs.items() if run["restored"]] == ["restored"]
    assert sweep["elder"] not in json.dumps(found)


def test_failures_show_their_error_and_what_they_tried(found: dict[str, Any]) -> None:
    failed = {run["experiment"]: (run["params"], run["error"]) for run in found["failed"]}
    assert failed == {
        "wild": ({"train.learning_rate": 1.0, "seed": 1}, "RuntimeError: loss is not finite"),
        "refused": (
            {"train.learning_rate": "abc", "seed": 1},
            "ValueError: train.learning_rate: input should be a valid number",
        ),
    }


def test_a_failure_that_was_run_again_is_none(found: dict[str, Any]) -> None:
    assert "broken" not in json.dumps(found)
    assert found["left_out"] == {"other_text": 0, "repeats": 1}


def test_a_killed_run_is_not_finished(found: dict[str, Any]) -> None:
    assert [(r["experiment"], r["status"]) for r in found["unfinished"]] == [("killed", "KILLED")]


def test_filters(sweep: dict[str, str], lab: Any) -> None:
    assert outline(read("--where", "train.learning_rate=4e-4")) == [(None, ["mended", "slow"])]
    older = read("--commit", lab.old[:8])
    assert outline(older) == [(1e-3, [""]), (1e-2, ["elder"])]
    everything = read("--all-commits", "--where", "train.learning_rate=1e-2,1e-3")
    assert sorted(lr for lr, _ in outline(everything)) == [1e-3, 1e-2]


def test_the_report_is_written_and_logged_once(
    sweep: dict[str, str], repo: Path, ship: Callable[[], None]
) -> None:
    done = CliRunner().invoke(main, ["sweep"])
    assert done.exit_code == 0, done.output
    conclusion = (
        "learning_rate 0.001 is lowest of 2 settings: validation loss 6.100 ± 0.141 over 2 seeds"
    )
    assert conclusion in done.output
    assert "2 of 7 runs failed. 1 run not finished." in done.output
    for suffix in ("html", "md", "png"):
        assert (repo / f"reports/sweep.{suffix}").stat().st_size > 1000
    for suffix in ("html", "md"):
        text = (repo / f"reports/sweep.{suffix}").read_text()
        assert conclusion in text
        assert "loss is not finite" in text

    ship()
    assert CliRunner().invoke(main, ["sweep"]).exit_code == 0
    ship()
    (run,) = Reader("lossbook").runs("tags.stage = 'sweep'")
    assert run.name == "sweep of learning_rate"
    assert run.metrics["best/val_loss"] == pytest.approx(6.1)
    store = Reader("lossbook").store
    logged = {item.path for item in store.client.list_artifacts(run.run_id)}
    assert logged == {"sweep.html", "sweep.md", "sweep.png"}


def test_the_html_asks_for_nothing(sweep: dict[str, str], repo: Path) -> None:
    read()
    page = (repo / "reports/sweep.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace('http-equiv="Content', "")
    assert page.count('role="img"') == 4  # two figures, each for two widths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "lr"], "--where lr: give KEY=VALUE, such as train.epochs=10"),
        (["--where", "seed=77"], "none of 8 training runs fits seed=77"),
        (["--metric", "best/loss"], "--metric best/loss: no run has it; there are best/epoch, "),
        (["--experiment", "other"], "mlflow.db has no experiment 'other'"),
        (["--commit", "0000"], "none of 8 training runs fits commit 0000"),
    ],
)
def test_mistakes(sweep: dict[str, str], arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["sweep", *arguments])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {message}")


@pytest.mark.parametrize("name", ["sweep.html", "sweep.md", "sweep.png"])
def test_files_that_others_wrote_are_not_replaced(
    sweep: dict[str, str], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    done = CliRunner().invoke(main, ["sweep", "--no-log", "--reports", str(tmp_path)])
    assert (done.exit_code, (tmp_path / name).read_text()) == (1, "mine")
    assert f"{tmp_path / name}: `lossbook sweep` did not write it" in done.stderr
