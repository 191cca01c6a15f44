"""A sweep in a real store, with all that can happen to its runs, and DVC's commits in a real Git.

Commit NEW has seven experiments: 1e-3 with two seeds, of which DVC restored one; 4e-4 with two
seeds, of which one failed at first; one that diverged, one refused for its params, one killed.
Commit OLD has another sweep.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.system.process import Terminated
from pipeline.tokens.unit_losses import VAL_UNITS
from pipeline.tracking import run as runs
from pipeline.tracking.mlflow import ENVIRONMENT
from pipeline.tracking.mlflow.sync import gather, synced
from pipeline.tracking.run import record_failure, start_run

TEXT = {"corpus": "story", "corpus_sha256": "ab" * 32}
WINDOWS: dict[str, Any] = {"name": "story/val", "source": "data/tokens/val", "digest": "cd" * 18}
DEFAULTS = {"seed": 1, "model.n_layer": 2, "train.learning_rate": 4e-4, "train.epochs": 3}


def git(folder: Path, *arguments: str, given: str = "") -> str:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(
        command, cwd=folder, input=given, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Lab:
    """Makes the runs that stages would make.

    Attributes:
        old, new: commits; experiments begin at the latter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        git(folder, "init", "--quiet")
        self.old = self.new = self.commit("old")

    def commit(self, message: str) -> str:
        git(self.folder, "commit", "--quiet", "--allow-empty", "--message", message)
        return git(self.folder, "rev-parse", "HEAD")

    def experiment(self, name: str, run: str) -> None:
        """What DVC keeps of an experiment: a commit with the record of its training."""
        blob = git(self.folder, "hash-object", "-w", "--stdin", given=json.dumps({"run": run}))
        reports = git(self.folder, "mktree", given=f"100644 blob {blob}\ttrain_run.json\n")
        tree = git(self.folder, "mktree", given=f"040000 tree {reports}\treports\n")
        commit = git(self.folder, "commit-tree", tree, "-p", self.new, "-m", name)
        ref = f"refs/exps/{self.new[:2]}/{self.new[2:]}/{name}"
        git(self.folder, "update-ref", ref, commit)

    def train(
        self,
        name: str,
        losses: list[float],
        error: BaseException | None = None,
        text: Mapping[str, str] = TEXT,
        metrics: Mapping[str, float] | None = None,
        **params: Any,
    ) -> str:
        """A training of experiment `name` (of `dvc repro`, where it is empty); the run's key."""
        values = {**DEFAULTS, **{_KEYS.get(key, key): value for key, value in params.items()}}
        with pytest.MonkeyPatch.context() as patch:
            under_dvc(patch, name, self.new, "train")
            try:
                with start_run("train", experiment="lossbook", params=values, tags=text) as run:
                    for step, loss in enumerate(losses):
                        run.log_metrics({"by_tokens/val_loss": loss}, step=step * 512)
                    if error is not None:
                        raise error
                    best = min(losses)
                    run.log_metrics({"best/val_loss": best, "best/epoch": 1.5})
                    run.log_metrics({"last/val_loss": losses[-1], "last/train_loss": 1.0})
                    run.log_metrics(dict(metrics or {}))
                    run.log_input(**WINDOWS, context="validation")
            except (RuntimeError, Terminated):
                pass
            if name and error is None:
                self.experiment(name, run.key)
        return run.key

    def evaluate(self, run: str, val_units: str) -> None:
        """What `evaluate` leaves of a training."""
        parent = self.folder / "train_run.json"
        parent.write_text(json.dumps({"run": run}))
        with pytest.MonkeyPatch.context() as patch:
            under_dvc(patch, "", self.new, "evaluate")
            with start_run("evaluate", experiment="lossbook", parent=parent) as child:
                child.log_text(val_units, VAL_UNITS)

    def baseline(self, size: str, loss: float, digest: str = WINDOWS["digest"]) -> None:
        """A measured size of GPT-2."""
        with pytest.MonkeyPatch.context() as patch:
            under_dvc(patch, "", self.new, f"baseline@{size}")
            with start_run("baseline", experiment="lossbook", name=f"gpt2-{size}") as run:
                run.log_metrics({"last/val_loss": loss})
                run.log_input(**{**WINDOWS, "digest": digest}, context="evaluation")

    def refuse(self, name: str, error: Exception) -> None:
        """An experiment that fails in its first stage."""
        with pytest.MonkeyPatch.context() as patch:
            under_dvc(patch, name, self.new, "identify")
            patch.setattr(runs, "_begun", [])  # as in a process of its own
            record_failure(error, self.folder / "params.yaml")


_KEYS = {"lr": "train.learning_rate", "layers": "model.n_layer"}


def under_dvc(patch: pytest.MonkeyPatch, name: str, baseline: str, stage: str) -> None:
    patch.setenv("DVC_STAGE", stage)
    if name:
        patch.setenv("DVC_EXP_NAME", name)
        patch.setenv("DVC_EXP_BASELINE_REV", baseline)


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Within the block, `folder` is the working folder, and the user's DVC and MLflow are away."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [v for v in os.environ if v.startswith(("DVC_", "MLFLOW_", "GIT_"))]:
            patch.delenv(variable)
        for variable, value in ENVIRONMENT.items():
            patch.setenv(variable, value)
        patch.setenv("LOSSBOOK_OFFLINE", "1")  # `ship` sends them
        patch.setenv("DVC_ROOT", str(folder))
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository, shared by this module's tests."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / ".dvc").mkdir()
    return folder


@pytest.fixture(scope="module")
def inside(repo: Path) -> Callable[[], AbstractContextManager[None]]:
    """For what works in the repository: `with inside():`."""
    return partial(working_in, repo)


@pytest.fixture
def working_inside(inside: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """The repository is the working folder of one test."""
    with inside():
        yield


@pytest.fixture(scope="module")
def lab(repo: Path) -> Lab:
    with working_in(repo):
        return Lab(repo)


@pytest.fixture(scope="module")
def ship(repo: Path) -> Callable[[], None]:
    """Send all journals to the store, at once: that is quicker than run by run."""

    def call() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("LOSSBOOK_OFFLINE")
            assert {one.outcome for one in synced(gather(Path("journals")))} <= {"sent", "there"}

    return call


@pytest.fixture(scope="module")
def sweep(lab: Lab, ship: Callable[[], None]) -> dict[str, str]:
    """The sweep of seven; experiment to run."""
    with working_in(lab.folder):
        train = lab.train
        found = {"elder": train("elder", [9.0, 7.0], lr=1e-2)}
        found["restored"] = train("", [9.0, 6.2, 6.4], lr=1e-3)
        lab.new = lab.commit("new")
        lab.experiment("restored", found["restored"])
        found["second"] = train("second", [9.0, 6.0, 6.5], lr=1e-3, seed=2)
        train("broken", [9.0], error=RuntimeError("out of memory"))
        found["mended"] = train("mended", [9.0, 8.0, 7.0])
        found["slow"] = train("slow", [9.0, 8.0, 7.2], seed=2)
        found["wild"] = train("wild", [9.0, 50.0], lr=1.0, error=RuntimeError("loss is not finite"))
        (lab.folder / "params.yaml").write_text(
            "seed: 1\nmodel: {n_layer: 2}\ntrain: {learning_rate: abc, epochs: 3}\n"
        )
        lab.refuse("refused", ValueError("train.learning_rate: input should be a valid number"))
        (lab.folder / "params.yaml").unlink()
        found["killed"] = train("killed", [9.0, 8.5], lr=2e-3, error=Terminated())
        ship()
    return found
