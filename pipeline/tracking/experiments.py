"""Which run the outputs of each DVC experiment come from, as the experiment's commit says.

MLflow cannot know of an experiment that DVC restored from its run cache: no process ran. But DVC
keeps every experiment as a commit (`refs/exps/XX/BASELINE/NAME`), and with it the record that
names the run.
"""

from __future__ import annotations

import json

from pipeline.tracking import home
from pipeline.tracking.facts import git

RECORD = "reports/train_run.json"


def runs_of_experiments(baseline: str) -> dict[str, str]:
    """For each experiment that began at this commit, by its name: the key of its training run.

    Empty where there is no Git, or the experiments are on another machine.
    """
    if len(baseline) < 3:
        return {}
    root, begun_there = home.root(), f"refs/exps/{baseline[:2]}/{baseline[2:]}"
    refs = git("for-each-ref", "--format=%(refname)", begun_there, cwd=root)
    found = {}
    for ref in refs.splitlines():
        key = _key_in(git("show", f"{ref}:{RECORD}", cwd=root))
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
