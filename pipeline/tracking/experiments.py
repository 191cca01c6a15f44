"""Which run the outputs of each DVC experiment come from, as the experiment's commit says.

MLflow cannot know of an experiment that DVC restored from its run cache: no process ran. But DVC
keeps every experiment as a commit (`refs/exps/XX/BASELINE/NAME`), and with it the record that
names the run.
"""

from __future__ import annotations

import json
import subprocess

from pipeline.tracking import home

RECORD = "reports/train_run.json"


def runs_of_experiments(baseline: str) -> dict[str, str]:
    """For each experiment that began at this commit, by its name: the key of its training run.

    Empty where there is no Git, or the experiments are on another machine.
    """
    if len(baseline) < 3:
        return {}
    refs = _git("for-each-ref", "--format=%(refname)", f"refs/exps/{baseline[:2]}/{baseline[2:]}")
    found = {}
    for ref in refs.splitlines():
        key = _key_in(_git("show", f"{ref}:{RECORD}"))
        if key is not None:
            found[ref.rpartition("/")[2]] = key
    return found


def _key_in(record: str) -> str | None:
    try:
        content = json.loads(record)
    except ValueError:
        return None
    key = content.get("run") if isinstance(content, dict) else None
    return key if isinstance(key, str) else None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=home.root(), capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
