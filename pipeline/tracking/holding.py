"""Whether a store holds what a journal tells: a store may have lost some of it, or all."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from pipeline.tracking.journal import Story
from pipeline.tracking.ship import Shipper
from pipeline.tracking.store import PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run


def holds(shipper: Shipper, story: Story) -> bool:
    """Whether the store's run is what the story tells, but for what it is known to lack.

    Of each metric the last value is compared, of tags the names: their texts may be edited.

    Raises:
        RunDeletedError: the run was deleted in the store.
    """
    run = shipper.find_run()
    if run is None or run.info.status != story.status:
        return False
    refused = shipper.cursor.refused.keys()
    return (
        _numbers(run.data.metrics) == _numbers(_expected_metrics(shipper, story))
        and run.data.params == {k: v for k, v in story.params.items() if k not in refused}
        and story.tags.keys() - refused <= run.data.tags.keys()
        and _is_linked(shipper, run)
        and _holds_artifacts(shipper, story)
        and _holds_models(shipper, story)
    )


def _expected_metrics(shipper: Shipper, story: Story) -> dict[str, float]:
    """A model's metrics come with the model."""
    with_models = {f"model/{name}" for model in _unsent(shipper) for name in model["metrics"]}
    lacking = with_models | shipper.cursor.refused.keys()
    return {name: point.value for name, point in story.metrics.items() if name not in lacking}


def _numbers(metrics: dict[str, float]) -> dict[str, float | str]:
    """Metrics as MLflow's databases hold them, and equal to themselves."""
    largest = sys.float_info.max
    return {
        name: "NaN" if math.isnan(value) else max(-largest, min(value, largest))
        for name, value in metrics.items()
    }


def _is_linked(shipper: Shipper, run: Run) -> bool:
    if shipper.header.get("parent") is None:
        return True
    parent = shipper.store.find_run(shipper.header["parent"])
    return parent is None or run.data.tags.get(PARENT) == parent.info.run_id


def _holds_artifacts(shipper: Shipper, story: Story) -> bool:
    missing = {e["artifact"]["path"] for e in shipper.cursor.missing if "artifact" in e}
    stay = {path for path, artifact in story.artifacts.items() if artifact.get("stays")}
    wanted = story.artifacts.keys() - missing - stay
    there: set[str] = set()
    for folder in {path.rpartition("/")[0] for path in wanted}:
        listed = shipper.store.client.list_artifacts(shipper.run_id, folder or None)
        there.update(item.path for item in listed)
    return wanted <= there


def _holds_models(shipper: Shipper, story: Story) -> bool:
    unsent = _unsent(shipper)
    return not any(
        shipper.publisher(model).lacks_files() for model in story.models if model not in unsent
    )


def _unsent(shipper: Shipper) -> list[dict[str, Any]]:
    return [event["model"] for event in shipper.cursor.missing if "model" in event]
