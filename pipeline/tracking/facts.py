"""What every run says of itself: who ran what, where, from which commit, in which experiment."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.system.process import Process
from pipeline.tracking import home

HOST, SPACE, PID, STARTED = "lossbook.host", "lossbook.space", "lossbook.pid", "lossbook.started"
WORKSPACE = "lossbook.workspace"  # the folder of work, seen from the main repository
PRODUCTS = ("reports", "dvc.lock")  # tracked files that the pipeline itself writes


def standard_tags(stage: str) -> dict[str, str]:
    """MLflow's own tags where it has one, `dvc.*` and `lossbook.*` for the rest."""
    tags = {
        "stage": stage,
        "mlflow.user": _user(),
        "mlflow.source.name": f"stages.{stage}",
        "mlflow.source.type": "LOCAL",
        WORKSPACE: Path(os.path.relpath(Path.cwd().resolve(), home.root())).as_posix(),
        **process_tags(),
        **git_tags(),
        **version_tags(),
    }
    for tag, variable in (
        ("dvc.exp_name", "DVC_EXP_NAME"),
        ("dvc.baseline", "DVC_EXP_BASELINE_REV"),
        ("dvc.stage", "DVC_STAGE"),
    ):
        if value := os.environ.get(variable):
            tags[tag] = value
    return tags


def process_tags() -> dict[str, str]:
    """By these a later process finds out whether this one still lives."""
    me = Process.current()
    return {HOST: me.host, SPACE: me.space, PID: str(me.pid), STARTED: f"{me.started:.2f}"}


def process_of(tags: dict[str, str]) -> Process | None:
    """The process that wrote these tags; None where they do not say."""
    try:
        return Process(tags[HOST], tags[SPACE], int(tags[PID]), float(tags[STARTED]))
    except (KeyError, ValueError):
        return None


def git_tags() -> dict[str, str]:
    """The commit, and whether tracked files differ from it, the pipeline's own products aside."""
    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    aside = [f":(exclude){path}" for path in PRODUCTS]
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", *aside)
    return {
        "mlflow.source.git.commit": commit,
        "lossbook.git.dirty": "true" if changes else "false",
    }


def version_tags() -> dict[str, str]:
    """Python, torch and Lossbook."""
    tags = {"lossbook.python": platform.python_version(), "lossbook.torch": version("torch")}
    with suppress(PackageNotFoundError):  # run from a bare checkout
        tags["lossbook.version"] = version("lossbook")
    return tags


def git(*arguments: str, cwd: Path | None = None) -> str:
    """Git's answer, in the working folder by default; empty where there is no Git or it refuses."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
