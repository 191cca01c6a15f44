"""Links between a run and its parent, in both descriptions, as MLflow's page shows them.

A run's address is the store's own, so the journal cannot hold it: links are written when both runs
are there. Whatever else a description says, by our hand or another's, stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tracking.limits import MAX_TAG
from pipeline.tracking.store import PARENT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NOTE = "mlflow.note.content"  # MLflow's tag for a run's description, in Markdown
CHILDREN = "**What was made of it:**"


def introduce(client: MlflowClient, child_id: str, parent: Run) -> None:
    """Have a child's description name its parent, and the parent's its children."""
    child = client.get_run(child_id)
    note = child.data.tags.get(NOTE, "")
    if _address(parent) not in note:
        _describe(client, child, _joined(note, f"Made from {_link(parent)}."))
    if parent.info.lifecycle_stage == "deleted":
        return  # MLflow changes nothing of it
    ids = sorted({parent.info.experiment_id, child.info.experiment_id})
    condition = f"tags.`{PARENT}` = '{parent.info.run_id}'"
    children = client.search_runs(ids, condition, order_by=["attributes.start_time"])
    note = parent.data.tags.get(NOTE, "")
    lines = [f"- {_link(run)}" for run in children if _address(run) not in note]
    if lines:
        if CHILDREN not in note:
            note = f"{_joined(note, CHILDREN)}\n"
        _describe(client, parent, "\n".join([note, *lines]))


def _joined(note: str, paragraph: str) -> str:
    return f"{note.rstrip()}\n\n{paragraph}" if note else paragraph


def _describe(client: MlflowClient, run: Run, note: str) -> None:
    if len(note) <= MAX_TAG:
        client.set_tag(run.info.run_id, NOTE, note)


def _link(run: Run) -> str:
    name = (run.info.run_name or run.info.run_id).replace("[", "(").replace("]", ")")
    return f"[{name}]({_address(run)})"


def _address(run: Run) -> str:
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
