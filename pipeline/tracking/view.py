"""The run list as one wants it after a sweep: trainings only, the best first, what differs.

MLflow keeps a shared view as an experiment's tag, which an address names: filter, order and
columns, as JSON in the words of its own pages. Whoever opens that address sees the view; nobody's
own settings are touched.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW = "trainings"
TRAININGS = 'tags.stage = "train"'  # in MLflow's filter language
METRICS = ("best/val_loss", "best/epoch", "last/val_loss", "last/train_loss")
ALWAYS = ("train.learning_rate", "seed")
MOST_PARAMS = 8
LOOKED_AT = 500  # of the newest trainings, for what differs between them


def share_views(client: MlflowClient) -> dict[str, str]:
    """Write the view of each experiment that has trainings; experiment to its page's address.

    The newest experiment comes first; addresses begin with `#`.
    """
    pages = {}
    for experiment in client.search_experiments():
        ids = [experiment.experiment_id]
        runs = client.search_runs(ids, TRAININGS, max_results=LOOKED_AT)
        if not runs:
            continue
        view = json.dumps(state([run.data.params for run in runs]))
        tag = f"mlflow.sharedViewState.{VIEW}"
        if experiment.tags.get(tag) != view:
            client.set_experiment_tag(experiment.experiment_id, tag, view)
        query = urlencode({"viewStateShareKey": VIEW, "workflowType": "machine_learning"})
        pages[experiment.name] = f"#/experiments/{experiment.experiment_id}/runs?{query}"
    return pages


def state(params: list[dict[str, str]]) -> dict[str, Any]:
    """What MLflow's page reads: filter, order, columns.

    Args:
        params: of each training.
    """
    names = sorted({name for one in params for name in one})
    differ = [name for name in names if len({one.get(name) for one in params}) > 1]
    shown = list(dict.fromkeys([*ALWAYS, *differ]))[:MOST_PARAMS]
    return {
        "searchFilter": TRAININGS,
        "orderByKey": _column("metrics", METRICS[0]),
        "orderByAsc": True,
        "selectedColumns": [
            *(_column("params", name) for name in shown),
            *(_column("metrics", name) for name in METRICS),
        ],
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
