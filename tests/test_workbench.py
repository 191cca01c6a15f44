"""A sweep of six by DVC's queue in a fresh clone, and what its users then read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from tests.helpers.chromium import chromium, save_picture
from tests.helpers.repository import ROOT, Repository, outside

REFUSED = "n_embd 64 is not a multiple of n_head 3"
# Enough for curves that fall, part and rise again.
CURVES = {"train.epochs": "12", "model.n_embd": "64", "sample.max_new_tokens": "20"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Nothing has ever run there, MLflow's store included, when two workers start at once."""
    folder = tmp_path_factory.mktemp("workbench") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    for key, value in CURVES.items():
        repository.set(key, value)
    repository.commit()
    queue = ("dvc", "exp", "run", "--queue")
    repository.run(*queue, "-S", "train.learning_rate=4e-3,1e-3", "-S", "seed=1,2")
    repository.run(*queue, "-S", "train.learning_rate=1e-2", "-S", "seed=1")
    repository.run(*queue, "--name", "refused", "-S", "model.n_head=3", "-S", "seed=1")
    status = repository.sweep(jobs=2)
    assert status.count("Success") == 5, status
    assert status.count("Failed") == 1, status
    return repository


def test_the_failed_one_says_why_in_the_queues_logs(swept: Repository) -> None:
    logs = swept.run("dvc", "queue", "logs", "refused").stdout
    assert REFUSED in logs
    assert "Traceback" not in logs


def test_lossbook_sweep_is_right_about_all_six(swept: Repository) -> None:
    found = json.loads(swept.run("lossbook", "sweep", "--json").stdout)
    settings = {s["values"]["train.learning_rate"]: s for s in found["settings"]}
    assert {rate: len(s["runs"]) for rate, s in settings.items()} == {4e-3: 2, 1e-3: 2, 1e-2: 1}
    assert [s["mean"] for s in found["settings"]] == sorted(s["mean"] for s in found["settings"])
    (failed,) = found["failed"]
    assert (failed["experiment"], failed["stage"]) == ("refused", "identify")
    assert REFUSED in failed["error"]
    assert found["unfinished"] == []
    refs = f"refs/exps/{found['commit'][:2]}/{found['commit'][2:]}"
    for setting in found["settings"]:
        for run in setting["runs"]:
            ref = f"{refs}/{run['experiment']}"
            shown = swept.run("git", "show", f"{ref}:reports/train.json").stdout
            assert json.loads(shown)["best"]["val_loss"] == run["score"]
    for suffix in ("html", "md", "png"):
        assert (swept.folder / "reports" / f"sweep.{suffix}").exists()


def test_the_one_store_has_them_all(swept: Repository) -> None:
    rows = json.loads(swept.run("lossbook", "runs", "--json").stdout)
    trainings = [row["status"] for row in rows if row["stage"] == "train"]
    assert trainings == ["FINISHED"] * 5
    assert [row["status"] for row in rows if row["stage"] == "identify"] == ["FAILED"]
    stores = sorted(Path(p).name for p in swept.folder.glob("*.db"))
    assert stores == ["mlflow.db"]


class Workbench:
    """MLflow's pages after the sweep, in a browser.

    Pictures go where LOSSBOOK_PICTURES says, else nowhere that lasts.
    """

    def __init__(
        self, browser: webdriver.Chrome, urls: tuple[str, str, str], runs: list[Any], pictures: Path
    ):
        self.browser, self.pictures = browser, pictures
        self.url, self.trainings, self.settings = urls
        self.runs = {stage: [r for r in runs if r["stage"] == stage] for stage in STAGES}

    def id_of(self, stage: str, number: int = 0) -> str:
        (run_id,) = self.runs[stage][number]["run_ids"].values()
        return str(run_id)

    def open(self, page: str) -> None:
        joint = "&" if "?" in page else "?"
        self.visit(f"{self.url}/#/{page}{joint}workflowType=machine_learning")

    def visit(self, address: str) -> None:
        self.browser.get("about:blank")
        self.browser.get(address)

    def wait_for(self, *texts: str) -> None:
        """Until the page shows these words.

        MLflow answers within seconds; on a busy machine a minute passes.
        """
        self._wait(lambda: all(text in self.shown() for text in texts), f"{texts} to be shown")

    def shown(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))

    def wait_for_plots(self, title: str) -> None:
        drawn = "return [...document.querySelectorAll('.js-plotly-plot')].length"
        self.wait_for(title)
        self._wait(lambda: self.browser.execute_script(drawn) > 0, "a chart to be drawn")

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        for _ in range(240):
            try:
                if holds():
                    return
            except WebDriverException:
                pass  # the page was changing
            time.sleep(0.25)
        raise AssertionError(f"waited for {what}; there is: {self.shown()}")

    def bring_up(self, heading: str) -> None:
        """Scroll so far that the charts of this group are seen."""
        script = """
            const shown = [...document.querySelectorAll('span, h4, div')].find(
                e => e.childElementCount === 0 && e.textContent.trim().startsWith(arguments[0]));
            shown.scrollIntoView();
        """
        self.browser.execute_script(script, heading)

    def frame(self, run: str, name: str) -> None:
        """Open a run's artifact that is a page, and go into it."""
        self.open(f"experiments/1/runs/{run}/artifacts/{name}")
        self.wait_for(name)
        frames: list[Any] = []

        def framed() -> bool:
            frames[:] = self.browser.find_elements(By.TAG_NAME, "iframe")
            return bool(frames)

        self._wait(framed, "the page to be framed")
        self.browser.switch_to.frame(frames[-1])

    def picture(self, name: str) -> None:
        time.sleep(1.0)  # for what moves into place
        hide = "document.querySelectorAll('.modebar').forEach(bar => bar.style.display = 'none')"
        self.browser.execute_script(hide)  # it is only there under the pointer
        save_picture(self.browser, self.pictures / f"{name}.png")


STAGES = ("train", "evaluate", "sample", "compare", "identify", "sweep")


@pytest.fixture(scope="module")
def workbench(swept: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    swept.run("lossbook", "sweep")
    runs = json.loads(swept.run("lossbook", "runs", "--json").stdout)
    pictures = Path(os.environ.get("LOSSBOOK_PICTURES") or tmp_path_factory.mktemp("pictures"))
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui"],
        cwd=swept.folder,
        env={**outside(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[1]
        trainings, settings = (server.stdout.readline().split()[-1] for _ in range(2))
        with chromium(tmp_path_factory.mktemp("profile")) as browser:
            bench = Workbench(browser, (url, trainings, settings), runs, pictures)
            bench.open("experiments")  # the first visit opens an assistant beside the page
            close = "[data-component-id='mlflow.assistant.chat_panel.close']"
            bench.wait_for("lossbook")
            for button in browser.find_elements(By.CSS_SELECTOR, close):
                button.click()
            yield bench
    finally:
        server.terminate()
        server.wait()


def test_the_run_list_tells_runs_apart(workbench: Workbench) -> None:
    workbench.open("experiments/1/runs")
    names = [run["name"] for run in workbench.runs["train"]]
    assert len(set(names)) == len(names)
    workbench.wait_for(*names, "identify failed")


def test_the_trainings_stand_in_order_with_what_differs(workbench: Workbench) -> None:
    workbench.visit(workbench.trainings)
    runs = sorted(workbench.runs["train"], key=lambda run: run["metrics"]["best/val_loss"])
    workbench.wait_for(*(run["name"] for run in runs), "train.learning_rate", "best/val_loss")
    shown = workbench.shown()
    assert "identify failed" not in shown
    places = [shown.index(run["name"]) for run in runs]
    assert places == sorted(places)
    workbench.picture("mlflow-runs")


def test_runs_that_differ_in_the_seed_alone_are_a_group(workbench: Workbench) -> None:
    workbench.visit(workbench.settings)
    workbench.wait_for("Group by: setting", *(run["name"] for run in workbench.runs["train"]))
    groups = [line for line in workbench.shown().splitlines() if line.startswith("Group: lr=")]
    assert len(groups) == 3


def test_all_curves_are_drawn_over_each_other(workbench: Workbench) -> None:
    workbench.visit(f"{workbench.trainings}&compareRunsMode=CHART")
    workbench.wait_for_plots("by_tokens")
    workbench.bring_up("by_tokens")
    workbench.picture("mlflow-charts")


def test_a_runs_curves(workbench: Workbench) -> None:
    workbench.open(f"experiments/1/runs/{workbench.id_of('train')}/model-metrics")
    workbench.wait_for_plots("by_tokens")
    workbench.bring_up("by_tokens")
    workbench.picture("mlflow-curves")


def test_two_runs_compared(workbench: Workbench) -> None:
    pair = json.dumps([workbench.id_of("train", 0), workbench.id_of("train", -1)])
    workbench.open(f"compare-runs?runs={pair}&experiments=[%221%22]")
    workbench.wait_for("Comparing 2 Runs", "train.learning_rate", "Run details")
    workbench.picture("mlflow-comparison")


def test_samples_stand_side_by_side(workbench: Workbench) -> None:
    workbench.visit(f"{workbench.trainings}&compareRunsMode=ARTIFACT")
    workbench.wait_for("samples.json", "Compare:\ncompletion", "Every effort moves you")
    workbench.picture("mlflow-samples")


def test_the_report_opens_as_an_artifact(workbench: Workbench) -> None:
    workbench.frame(workbench.id_of("compare"), "comparison.html")
    workbench.wait_for("from scratch reach", "Side by side", "How it was made", "Commit")
    workbench.browser.switch_to.default_content()
    workbench.picture("mlflow-report")


def test_the_sweeps_page_opens_as_an_artifact(workbench: Workbench) -> None:
    workbench.frame(workbench.id_of("sweep"), "sweep.html")
    workbench.wait_for("learning_rate", REFUSED, "How it was made")
    workbench.browser.switch_to.default_content()
    workbench.picture("mlflow-sweep")
