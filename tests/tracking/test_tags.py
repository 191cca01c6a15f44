from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch

from pipeline.tracking.tags import WORKSPACE, git_tags, standard_tags, version_tags


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def committed(bare_repo: Path) -> Path:
    for name in ("params.yaml", "reports/evaluate.json", "dvc.lock"):
        path = bare_repo / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "start")
    return bare_repo


def test_the_commit_is_named(committed: Path) -> None:
    assert git_tags() == {
        "mlflow.source.git.commit": git("rev-parse", "HEAD"),
        "lossbook.git.dirty": "false",
    }


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("params.yaml", "true"),
        ("reports/evaluate.json", "false"),  # the pipeline's own product
        ("dvc.lock", "false"),
        ("untracked.txt", "false"),
    ],
)
def test_what_counts_as_a_change(committed: Path, changed: str, dirty: str) -> None:
    (committed / changed).write_text("2")
    assert git_tags()["lossbook.git.dirty"] == dirty


def test_without_git_there_is_no_commit(bare_repo: Path) -> None:
    assert git_tags() == {}


def test_dvcs_experiment_is_named(bare_repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "ropey-sook")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    monkeypatch.setenv("DVC_STAGE", "baseline@124M")
    workspace = bare_repo / ".dvc" / "tmp" / "exps" / "tmp1"
    workspace.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    tags = standard_tags("baseline")
    assert tags["dvc.exp_name"] == "ropey-sook"
    assert tags["dvc.baseline"] == "abc"
    assert tags["dvc.stage"] == "baseline@124M"
    assert tags["stage"] == "baseline"
    assert tags[WORKSPACE] == ".dvc/tmp/exps/tmp1"
    assert all(isinstance(text, str) for text in tags.values())


def test_the_versions_are_those_that_run(bare_repo: Path) -> None:
    tags = version_tags()
    assert tags["lossbook.torch"] == torch.__version__
    assert tags["lossbook.python"] == platform.python_version()
