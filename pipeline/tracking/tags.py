"""The tags that every run gets: who ran what, where, from which commit, in which experiment.

MLflow's page lists a run's tags, those that begin with `mlflow.` left out. So what only this
package reads is named `mlflow.lossbook.*`, and what a person may want to read is not. Runs of
earlier versions have the former as `lossbook.*`; `hidden_tag` reads both.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.system.process import Process
from pipeline.tracking import paths

RUN_KEY = "mlflow.lossbook.run"  # by which a run is found again, whatever id a store gave it
HOST, SPACE = "mlflow.lossbook.host", "mlflow.lossbook.space"
PID, STARTED = "mlflow.lossbook.pid", "mlflow.lossbook.started"
WORKSPACE = "mlflow.lossbook.workspace"  # the working folder, relative to the main repository
# MLflow's own:
PARENT = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"  # in Markdown
TABLES = "mlflow.loggedArtifacts"  # by which its page finds tables to compare

PRODUCTS = ("reports", "dvc.lock")  # tracked files that the pipeline itself writes

# What MLflow takes. Checked when journalled, not when a server refuses.
MAX_PARAM, MAX_TAG, MAX_RUN_NAME = 6000, 8000, 250  # characters
NAME = re.compile(r"(?!/)[\w./: -]{1,250}")


def former_name(name: str) -> str:
    """What earlier versions called a hidden tag."""
    return name.removeprefix("mlflow.")


def hidden_tag(tags: Mapping[str, str], name: str) -> str | None:
    """The text of a hidden tag, under its name or its former one."""
    return tags.get(name, tags.get(former_name(name)))


def standard_tags(stage: str) -> dict[str, str]:
    """MLflow's own tags where it has one, `dvc.*` and `lossbook.*` for the rest."""
    tags = {
        "stage": stage,
        "mlflow.user": _user(),
        "mlflow.source.name": f"stages.{stage}",
        "mlflow.source.type": "LOCAL",
        WORKSPACE: workspace(),
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


def workspace() -> str:
    """The working folder, relative to the main repository."""
    return Path(os.path.relpath(Path.cwd().resolve(), paths.root())).as_posix()


def process_tags() -> dict[str, str]:
    """By these a later process finds out whether this one still lives."""
    me = Process.current()
    return {HOST: me.host, SPACE: me.space, PID: str(me.pid), STARTED: f"{me.started:.2f}"}


def process_of(tags: Mapping[str, str]) -> Process | None:
    """The process that wrote these tags; None where they do not say."""
    host, space, pid, started = (hidden_tag(tags, name) for name in (HOST, SPACE, PID, STARTED))
    if host is None or space is None or pid is None or started is None:
        return None
    with suppress(ValueError):
        if 0 < (number := int(pid)) < 1 << 31:
            return Process(host, space, number, float(started))
    return None


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote these tags is known to be gone; only its own host knows."""
    process = process_of(tags)
    return process is not None and process.is_alive() is False


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
            ["git", *arguments],
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def checked_name(name: str) -> str:
    """The name of a metric, param or tag, as it is.

    Raises:
        ValueError: MLflow does not take it.
    """
    if not NAME.fullmatch(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(
            f"{name!r}: a metric, param or tag is named with letters, digits, `_ - . :`, spaces "
            "and single slashes, at most 250 of them"
        )
    return name


def param_text(value: Any) -> str:
    """A param's text: JSON for anything but text itself, cut to what MLflow takes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _cut(text, MAX_PARAM)


def tag_text(text: str) -> str:
    """A tag's text, cut to what MLflow takes."""
    return _cut(text, MAX_TAG)


def run_name_text(text: str) -> str:
    """A run's name, cut to what MLflow's databases take."""
    return _cut(text, MAX_RUN_NAME)


def writable(text: str) -> str:
    """The text with lone surrogates, which no encoding can write, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _cut(text: str, length: int) -> str:
    text = writable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
