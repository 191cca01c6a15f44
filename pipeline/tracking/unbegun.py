"""A failed run for an experiment that ended before a run could begin.

A stage of a queued experiment has nobody at its terminal. Where it refuses its params, or its
corpus cannot be read, no run has begun: this leaves one, FAILED, with the error and what params
there were, so that whoever reads the sweep in MLflow finds it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.tracking import run as runs

SECTIONS = ("seed", "model", "train")  # a training run's


def record_failure(error: Exception, params_file: Path = Path("params.yaml")) -> None:
    """Leave the run, if DVC runs this stage for an experiment and no run has begun here."""
    stage = os.environ.get("DVC_STAGE", "").partition("@")[0]
    if not stage or "DVC_EXP_NAME" not in os.environ or runs.begun():
        return
    params = _raw_params(params_file)
    experiment = params.get("tracking.experiment")
    try:
        with runs.start_run(
            stage,
            experiment=experiment if isinstance(experiment, str) else "lossbook",
            name=f"{stage} failed",
            description=f"The experiment ended here, before a run had begun: {error}",
            params={k: v for k, v in params.items() if k.partition(".")[0] in SECTIONS},
        ):
            raise error
    except Exception:
        return  # the stage's own error is what must be told, whatever hinders this


def _raw_params(path: Path) -> dict[str, Any]:
    """The file's values as they stand, which may be wrong: nothing where it is no YAML."""
    from pipeline.params import flatten, read_yaml

    try:
        return flatten(read_yaml(path))
    except UserError:
        return {}
