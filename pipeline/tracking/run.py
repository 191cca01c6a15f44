"""A run, as stages see it: `start_run` and the `Run` that it yields.

    with start_run("train", experiment="lossbook", state=folder, params=flat) as run:
        run.resume_at(first_step)
        for step in ...:
            run.log_metrics({"train/loss": loss}, step=step)

Everything is written into the run's journal, which costs microseconds; another process takes it to
MLflow (`courier_process`). A store that is slow, broken or away never slows or fails the stage.

How a run ends: the block ends, FINISHED; SIGTERM or Ctrl-C, KILLED; any other exception, FAILED,
with the tag `error`. A run that did not finish stays in its state folder, and the next `start_run`
there goes on with it. One that finished is archived in `.lossbook/journals/`, and its state
folder, with whatever else the stage kept in it, is removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.system.files import read_json
from pipeline.system.process import die_with_parent, sigterm_raises
from pipeline.tracking import home
from pipeline.tracking.archive import revive
from pipeline.tracking.ending import Helpers, break_off, finish
from pipeline.tracking.facts import standard_tags
from pipeline.tracking.links import NOTE
from pipeline.tracking.locks import take
from pipeline.tracking.open_run import Run

_begun: list[str] = []  # keys of this process's runs


def begun() -> bool:
    """Whether this process has begun a run."""
    return bool(_begun)


@contextmanager
def start_run(
    stage: str,
    *,
    experiment: str,
    state: Path | None = None,
    name: str | None = None,
    description: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    parent: Path | None = None,
    record: Path | None = None,
    journal: Path | None = None,
) -> Iterator[Run]:
    """Open a run, or go on with the one that a kill left in `state`.

    Args:
        stage: the stage's name, also the tag `stage`.
        experiment: MLflow's experiment; created where there is none.
        state: `home.state_folder(stage, fingerprint)` for a stage that can go on after a kill;
            None for one that starts anew each time.
        name: what is special about the run, as the UI lists it; by default the stage's name, and
            which run it was made from.
        description: Markdown, at the top of the run's page.
        params: flat, e.g. `pipeline.params.flatten(params.train, "train.")`. A run that goes on
            keeps the params it began with.
        tags: further tags; the standard ones (`facts`) are always set.
        parent: another stage's `record`: this run becomes its child.
        record: where to write `{"run", "run_id", "experiment", "name"}` at a good end. `run` is
            the key that finds the run in every store; `run_id` is MLflow's, null where the store
            did not answer.
        journal: a folder, one of the stage's DVC outputs, that gets the whole journal at a good
            end.

    Raises:
        UserError: another process works in `state`, or `parent` is no record.
    """
    die_with_parent()
    made_from = _record(parent) if parent else {}
    header = {
        "run": secrets.token_hex(8),
        "stage": stage,
        "experiment": experiment,
        "name": name or _name_of_child(stage, made_from),
        "parent": made_from.get("run"),
        "state": state.name if state else None,
    }
    all_tags = {**standard_tags(stage), **(tags or {})}
    if description:
        all_tags[NOTE] = description
    folder = state or home.states() / f"{stage}-{header['run']}"
    with sigterm_raises(), take(folder):
        if state is not None:
            revive(state, handed_over=journal is not None)
        run = Run(folder, header, all_tags, params or {})
        _begun.append(run.key)
        helpers = Helpers(run)
        try:
            yield run
        except BaseException as error:
            break_off(run, helpers, error)
            raise
        finish(run, helpers, record, journal)


def _record(parent: Path) -> dict[str, Any]:
    record = read_json(parent)
    if not isinstance(record, dict) or not isinstance(record.get("run"), str):
        raise UserError(f"{parent}: must hold the key `run`; `dvc repro -f` rewrites it")
    return record


def _name_of_child(stage: str, parent: Mapping[str, Any]) -> str:
    return f"{stage} of {parent['name']}" if "name" in parent else stage
