"""A sweep in a real store, read as `lossbook sweep` reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.tokens.unit_losses import UnitLosses
from pipeline.tracking.mlflow.queries import Reader
from tests.sweep.conftest import Lab, working_in

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


def test_two_seeds_that_do_not_agree_claim_no_lead(found: dict[str, Any]) -> None:
    """The gap is 0.8 of one seed and 1.2 of the other: t is 5, with one degree of freedom."""
    best, other = found["settings"]
    assert (found["lead"], found["paired"], found["sources"], best["gap"]) == (
        False,
        True,
        None,
        None,
    )
    gap = other["gap"]
    assert gap["size"] == pytest.approx(1.0)
    assert gap["p"] == pytest.approx(1 - 2 * math.atan(5) / math.pi)  # Student's t is Cauchy's
    assert gap["interval"] == pytest.approx([1 - 0.2 * 12.7062, 1 + 0.2 * 12.7062], rel=1e-4)
    assert (gap["is_lead"], gap["seeds"]) == (False, 3)
    assert best["interval"][0] < best["mean"] < best["interval"][1]


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
        "learning_rate 0.001 is lowest of 2 settings: validation loss 6.100 ± 0.141 over 2 seeds, "
        "1.000 below learning_rate 0.0004: seeds alone can make as much."
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


def val_units(losses: npt.NDArray[np.float64]) -> str:
    sums = tuple((64 * losses).tolist())
    found = UnitLosses(unit="block", tokens=(64,) * len(losses), best=sums, last=sums)
    return found.model_dump_json()


@pytest.fixture(scope="module")
def evaluated(lab: Lab, sweep: dict[str, str], ship: Callable[[], None]) -> None:
    """A sweep of its own commit with three seeds, evaluated on 40 blocks of text."""
    random = np.random.default_rng(1)
    with working_in(lab.folder):
        lab.new = lab.commit("evaluated")
        for layers in (2, 3):
            text = random.normal(0.0, 0.4, 40)  # what the text does to the setting
            for seed in (1, 2, 3):
                losses = 6.0 + 0.5 * (layers - 2) + 0.01 * seed + text + random.normal(0, 0.05, 40)
                loss = float(losses.mean())
                run = lab.train(f"e{layers}{seed}", [9.0, loss], layers=layers, seed=seed)
                lab.evaluate(run, val_units(losses))
        ship()


def test_the_uncertainty_of_seeds_and_of_text(evaluated: None, lab: Lab) -> None:
    found = read("--commit", lab.new)
    assert found["lead"]
    sources = found["sources"]
    assert (sources["unit"], sources["units"]) == ("block", 40)
    assert sources["text"] == pytest.approx(math.sqrt(2 * 0.4**2 / 40), rel=0.4)
    assert sources["seeds"] < 0.02
    said = CliRunner().invoke(main, ["sweep", "--no-log", "--commit", lab.new]).output
    assert "n_layer 2 is best of 2 settings" in said
    assert "more validation text would narrow that, more seeds hardly." in said
    assert read("--commit", lab.new, "--metric", "last/train_loss")["sources"] is None


@pytest.mark.parametrize(
    "text",
    [
        val_units(np.full(41, 6.0)),  # other units
        pytest.param(val_units(np.full(40, 7.0)), marks=pytest.mark.slow),  # other weights
        pytest.param("{", marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_that_does_not_fit_says_nothing(
    evaluated: None, lab: Lab, ship: Callable[[], None], text: str
) -> None:
    lab.evaluate(read("--commit", lab.new)["settings"][0]["runs"][0]["run"], text)
    ship()
    assert read("--commit", lab.new)["sources"] is None
